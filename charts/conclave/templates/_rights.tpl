{{/*
What the operator may do; tests compare it with what the operator does.
It creates Secrets (an endpoint's token) but never reads or changes one.
*/}}

{{/* In every watched namespace. */}}
{{- define "conclave.rights.namespaced" -}}
- apiGroups: [conclave.dev]
  resources: [modeldeployments]
  verbs: [list, watch]
- apiGroups: [conclave.dev]
  resources: [modeldeployments/status]
  verbs: [patch]
- apiGroups: [conclave.dev]
  resources: [modeldeployments/finalizers] # for owner references that block deletion, where admission checks them
  verbs: [update]
- apiGroups: [ray.io]
  resources: [rayservices]
  verbs: [get, list, watch, create, patch]
- apiGroups: [ray.io]
  resources: [rayclusters]
  verbs: [list, watch]
- apiGroups: [networking.k8s.io]
  resources: [networkpolicies]
  verbs: [get, list, watch, create, patch]
- apiGroups: [apps]
  resources: [controllerrevisions]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [""]
  resources: [secrets]
  verbs: [create]
- apiGroups: [""]
  resources: [pods]
  verbs: [list, watch]
- apiGroups: [""]
  resources: [events]
  verbs: [list, watch, create]
- apiGroups: [batch]
  resources: [jobs] # that download weights, and that read the config.json of unknown models
  verbs: [get, list, watch, create, delete]
- apiGroups: [""]
  resources: [persistentvolumeclaims] # model.cache
  verbs: [get, create, patch]
- apiGroups: [""]
  resources: [configmaps]
  verbs: [get]
{{- end -}}

{{/* Whatever is watched: the accelerators. */}}
{{- define "conclave.rights.cluster" -}}
- apiGroups: [""]
  resources: [nodes]
  verbs: [list, watch]
- apiGroups: [resource.k8s.io]
  resources: [resourceslices] # dynamic resource allocation: what a node's GPUs are where no device plugin offers them
  verbs: [list, watch]
{{- end -}}

{{/* In the release namespace: leadership. A create cannot be limited by name. */}}
{{- define "conclave.rights.release" -}}
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  resourceNames: [{{ include "conclave.fullname" . }}]
  verbs: [get, update]
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  verbs: [create]
{{- end -}}
