{{- define "conclave.name" -}}
{{- .Values.nameOverride | default .Chart.Name | trunc 50 | trimSuffix "-" -}}
{{- end -}}

{{- define "conclave.fullname" -}}
{{- $name := include "conclave.name" . -}}
{{- $full := contains $name .Release.Name | ternary .Release.Name (printf "%s-%s" .Release.Name $name) -}}
{{- .Values.fullnameOverride | default $full | trunc 50 | trimSuffix "-" -}}
{{- end -}}

{{- define "conclave.serviceAccountName" -}}
{{- .Values.serviceAccount.name | default (.Values.serviceAccount.create | ternary (include "conclave.fullname" .) "default") -}}
{{- end -}}

{{- define "conclave.selectorLabels" -}}
app.kubernetes.io/name: {{ include "conclave.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: operator
{{- end -}}

{{- define "conclave.labels" -}}
{{ include "conclave.selectorLabels" . }}
app.kubernetes.io/part-of: conclave
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{/* No mesh may add a sidecar to the operator's pods, whose NetworkPolicy would keep it from its control plane. */}}
{{- define "conclave.podLabels" -}}
{{- $mesh := dict "istio.io/dataplane-mode" "none" "kuma.io/sidecar-injection" "disabled" "sidecar.istio.io/inject" "false" -}}
{{- mergeOverwrite $mesh (deepCopy (.more | default dict)) .own | toYaml -}}
{{- end -}}

{{- define "conclave.podAnnotations" -}}
{{- mergeOverwrite (dict "linkerd.io/inject" "disabled") (deepCopy (.more | default dict)) .own | toYaml -}}
{{- end -}}

{{/* image: (dict "image" .Values.image "root" $) */}}
{{- define "conclave.image" -}}
{{- $path := .root.Values.registry | empty | ternary .image.repository (printf "%s/%s" (trimSuffix "/" .root.Values.registry) .image.repository) -}}
{{- if .image.digest -}}
{{ $path }}@{{ .image.digest }}
{{- else -}}
{{ $path }}:{{ .image.tag | default .root.Chart.AppVersion }}
{{- end -}}
{{- end -}}
