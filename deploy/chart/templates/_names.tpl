{{/* Names and labels that more than one template needs. */}}

{{- define "kith.selector" -}}
app.kubernetes.io/name: kith-control
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "kith.labels" -}}
app.kubernetes.io/name: kith-control
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/part-of: kith
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{/* (list . "kith-proxy") → registry/kith-proxy:tag */}}
{{- define "kith.image" -}}
{{- $root := index . 0 -}}
{{- $registry := $root.Values.image.registry -}}
{{- if $registry }}{{ trimSuffix "/" $registry }}/{{ end }}{{ index . 1 }}:{{ $root.Values.image.tag | default $root.Chart.AppVersion }}
{{- end }}

{{- define "kith.rootNamespace" -}}
{{ .Values.mesh.rootNamespace | default .Release.Namespace }}
{{- end }}

{{/* Namespaces that no webhook is ever asked about. A control plane that had to inject itself could not start. */}}
{{- define "kith.excludedNamespaces" -}}
{{ concat (list "kube-system" .Release.Namespace) .Values.injection.excludedNamespaces | uniq | toJson }}
{{- end }}
