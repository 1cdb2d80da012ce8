{{/* The operator's settings: the fields of conclave.settings.OperatorSettings. */}}
{{- define "conclave.settings" -}}
image: {{ include "conclave.image" (dict "image" .Values.serving.image "root" $) }}
image_pull_policy: {{ .Values.serving.image.pullPolicy }}
allowed_images: {{ .Values.serving.allowedImages | default list | toJson }}
allowed_service_accounts: {{ .Values.serving.allowedServiceAccounts | default list | toJson }}
allowed_pod_keys: {{ .Values.serving.allowedPodKeys | default list | toJson }}
{{- with .Values.serving }}
{{- if not (kindIs "invalid" .allowedDevices) }}
allowed_devices: {{ .allowedDevices | toJson }}
{{- end }}
{{- end }}
image_pull_secrets: {{ .Values.imagePullSecrets | toJson }}
ray_version: {{ .Values.serving.rayVersion | quote }}
data_classes: {{ .Values.dataClasses | toJson }}
cluster_domain: {{ .Values.network.clusterDomain }}
kuberay_namespace: {{ .Values.network.kuberayNamespace }}
gateway_namespace: {{ .Values.network.gatewayNamespace | default .Release.Namespace }}
dns_namespace: {{ .Values.network.dnsNamespace }}
dns_cidrs: {{ .Values.network.dnsCidrs | toJson }}
metrics_from: {{ .Values.network.metricsFrom | toJson }}
connections_per_address: {{ .Values.network.connectionsPerAddress | int }}
connections_exempt_cidrs: {{ .Values.network.connectionsExemptCidrs | toJson }}
api_server_cidrs: {{ .Values.network.apiServerCidrs | toJson }}
{{- end -}}
