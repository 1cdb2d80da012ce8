{{/* The operator's settings: the fields of conclave.settings.OperatorSettings. */}}
{{- define "conclave.settings" -}}
image: {{ include "conclave.image" (dict "image" .Values.serving.image "root" $) }}
image_pull_policy: {{ .Values.serving.image.pullPolicy }}
allowed_images: {{ .Values.serving.allowedImages | default list | toJson }}
allowed_service_accounts: {{ .Values.serving.allowedServiceAccounts | default list | toJson }}
allowed_hub_endpoints: {{ if kindIs "invalid" .Values.serving.allowedHubEndpoints }}[]{{ else }}{{ .Values.serving.allowedHubEndpoints | toJson }}{{ end }}
allowed_pod_keys: {{ .Values.serving.allowedPodKeys | default list | toJson }}
{{- with .Values.serving }}
{{- if not (kindIs "invalid" .allowedDevices) }}
allowed_devices: {{ .allowedDevices | toJson }}
{{- end }}
{{- end }}
image_pull_secrets: {{ .Values.imagePullSecrets | toJson }}
fixed_user_ids: {{ include "conclave.hasFixedIds" . | empty | ternary false true }}
ray_version: {{ .Values.serving.rayVersion | quote }}
data_classes: {{ .Values.dataClasses | toJson }}
cluster_domain: {{ .Values.network.clusterDomain }}
kuberay_namespace: {{ .Values.network.kuberayNamespace }}
gateway_namespace: {{ .Values.network.gatewayNamespace | default .Release.Namespace }}
dns_namespace: {{ .Values.network.dnsNamespace }}
dns_cidrs: {{ .Values.network.dnsCidrs | toJson }}
dns_ports: {{ include "conclave.dnsPorts" . }}
metrics_from: {{ .Values.network.metricsFrom | toJson }}
connections_per_address: {{ .Values.network.connectionsPerAddress | int }}
connections_exempt_cidrs: {{ .Values.network.connectionsExemptCidrs | toJson }}
api_server_cidrs: {{ .Values.network.apiServerCidrs | toJson }}
api_server_ports: {{ include "conclave.apiServerPorts" . }}
ip_family: {{ .Values.network.ipFamily | default "IPv4" }}
http_proxy: {{ .Values.proxy.http | quote }}
https_proxy: {{ .Values.proxy.https | quote }}
no_proxy: {{ .Values.proxy.noProxy | quote }}
ca_bundle: {{ .Values.caBundle.configMap | quote }}
ca_bundle_key: {{ .Values.caBundle.key | quote }}
{{- end -}}

{{/* `helm upgrade --reuse-values` knows no defaults of values that are new: all of these have one here too. */}}
{{- define "conclave.hasFixedIds" -}}
{{- if ne (toString .Values.fixedUserIds) "false" -}}true{{- end -}}
{{- end -}}

{{- define "conclave.apiServerPorts" -}}
{{ .Values.network.apiServerPorts | default (list 443 6443) | toJson }}
{{- end -}}

{{- define "conclave.dnsPorts" -}}
{{ .Values.network.dnsPorts | default (list 53) | toJson }}
{{- end -}}
