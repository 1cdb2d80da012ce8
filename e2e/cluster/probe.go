// A pod's ears and mouth for the tests of the cluster itself: `probe serve` answers who it is and whom it sees,
// `probe get URL` prints what a URL answers; with the service account of the pod where the URL is https.
package main

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"time"
)

const account = "/var/run/secrets/kubernetes.io/serviceaccount/"

func main() {
	var err error
	switch {
	case len(os.Args) == 2 && os.Args[1] == "serve":
		err = http.ListenAndServe(":8080", http.HandlerFunc(answer))
	case len(os.Args) == 3 && os.Args[1] == "get":
		err = get(os.Args[2])
	default:
		err = fmt.Errorf("usage: probe serve | probe get URL")
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func answer(writer http.ResponseWriter, request *http.Request) {
	seen, _, _ := net.SplitHostPort(request.RemoteAddr)
	name, _ := os.Hostname()
	fmt.Fprintf(writer, "%s sees %s\n", name, seen)
}

func get(url string) error {
	request, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	client := http.Client{Timeout: 5 * time.Second}
	if strings.HasPrefix(url, "https:") {
		token, err := os.ReadFile(account + "token")
		if err != nil {
			return err
		}
		authority, err := os.ReadFile(account + "ca.crt")
		if err != nil {
			return err
		}
		request.Header.Set("Authorization", "Bearer "+string(token))
		pool := x509.NewCertPool()
		pool.AppendCertsFromPEM(authority)
		client.Transport = &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}
	}
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	fmt.Println(response.Status)
	_, err = io.Copy(os.Stdout, response.Body)
	return err
}
