{{/* Names. A release called leasehold, or one whose name holds it, gives its name to everything. */}}
{{- define "leasehold.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride -}}
{{- else if contains $name .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "leasehold.operator.name" -}}{{ include "leasehold.fullname" . }}-operator{{- end -}}
{{- define "leasehold.reporter.name" -}}{{ include "leasehold.fullname" . }}-reporter{{- end -}}

{{- define "leasehold.webhook.name" -}}{{ include "leasehold.fullname" . }}-webhook{{- end -}}

{{/* Not empty where the server is seen to have no policies that change objects: it is older than Kubernetes 1.36. */}}
{{- define "leasehold.withoutMutation" -}}
{{- $known := .Capabilities.APIVersions -}}
{{- if and ($known.Has "v1/Namespace") (not ($known.Has "admissionregistration.k8s.io/v1/MutatingAdmissionPolicy")) -}}on{{- end -}}
{{- end -}}

{{/* Not empty where API servers ask the operator about pods, because that was set or because the server has no policies. */}}
{{- define "leasehold.webhook" -}}
{{- $lacking := include "leasehold.withoutMutation" . -}}
{{- with .Values.enforcement -}}
{{- if and .enabled (or (eq .admission "Webhook") (and (eq .admission "Auto") $lacking)) -}}on{{- end -}}
{{- end -}}
{{- end -}}

{{- define "leasehold.operator.serviceAccountName" -}}
{{- with .Values.operator.serviceAccount -}}
{{- default (ternary (include "leasehold.operator.name" $) "default" .create) .name -}}
{{- end -}}
{{- end -}}

{{- define "leasehold.reporter.serviceAccountName" -}}
{{- with .Values.reporter.serviceAccount -}}
{{- default (ternary (include "leasehold.reporter.name" $) "default" .create) .name -}}
{{- end -}}
{{- end -}}

{{/* Who the two are in request.userInfo.username, for policies. */}}
{{- define "leasehold.operator.username" -}}system:serviceaccount:{{ .Release.Namespace }}:{{ include "leasehold.operator.serviceAccountName" . }}{{- end -}}
{{- define "leasehold.reporter.username" -}}system:serviceaccount:{{ .Release.Namespace }}:{{ include "leasehold.reporter.serviceAccountName" . }}{{- end -}}

{{/* Labels that select pods. They never change. Takes root and component. */}}
{{- define "leasehold.selector" -}}
app.kubernetes.io/name: {{ default .root.Chart.Name .root.Values.nameOverride }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{/* Labels on everything; the chart's own win over common ones. Takes root, component, and more. */}}
{{- define "leasehold.labels" -}}
{{- $own := include "leasehold.selector" . | fromYaml -}}
{{- $_ := set $own "app.kubernetes.io/part-of" "leasehold" -}}
{{- $_ := set $own "app.kubernetes.io/version" .root.Chart.AppVersion -}}
{{- $_ := set $own "app.kubernetes.io/managed-by" .root.Release.Service -}}
{{- $_ := set $own "helm.sh/chart" (printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_") -}}
{{- toYaml (merge $own (default dict .more) .root.Values.commonLabels) -}}
{{- end -}}

{{/* Labels of pods: no version of the chart, which would restart them for nothing. Takes root, component and more. */}}
{{- define "leasehold.podLabels" -}}
{{- $own := include "leasehold.selector" . | fromYaml -}}
{{- $_ := set $own "app.kubernetes.io/part-of" "leasehold" -}}
{{- toYaml (merge $own .more .root.Values.commonLabels) -}}
{{- end -}}

{{- define "leasehold.image" -}}
{{- $image := .Values.image -}}
{{- $registry := default $image.registry .Values.global.imageRegistry -}}
{{- $name := ternary $image.repository (printf "%s/%s" $registry $image.repository) (empty $registry) -}}
{{- if $image.digest -}}
{{- printf "%s@%s" $name $image.digest -}}
{{- else -}}
{{- printf "%s:%s" $name (default .Chart.AppVersion $image.tag) -}}
{{- end -}}
{{- end -}}

{{/* A number as Kubernetes wants it: Helm reads some as 1e+06. */}}
{{- define "leasehold.number" -}}
{{- if and (kindIs "float64" .) (eq . (floor .)) -}}{{ int64 . }}{{- else -}}{{ . }}{{- end -}}
{{- end -}}

{{/* Fails where the server is there and lacks an API. Takes root, value, api, from, else, and what to set unless it is value=false. */}}
{{- define "leasehold.needs" -}}
{{- $known := .root.Capabilities.APIVersions -}}
{{- if and .root.Values.checkServer ($known.Has "v1/Namespace") (not ($known.Has .api)) -}}
{{- printf "%s: this server (Kubernetes %s) has no %s; %s. Set %s%s." .value .root.Capabilities.KubeVersion.Version .api .from (default (printf "%s=false" .value) .set) (ternary (printf ": %s" .else) "" (not (empty .else))) | fail -}}
{{- end -}}
{{- end -}}

{{/* Environment variables of the user, none twice, none of the chart's. Takes path, taken, extra. */}}
{{- define "leasehold.extraEnv" -}}
{{- $seen := .taken -}}
{{- range .extra -}}
{{- if has .name $seen -}}
{{- printf "%s: %s is set twice, or is set by the chart itself" $.path .name | fail -}}
{{- end -}}
{{- $seen = append $seen .name -}}
{{- end -}}
{{- with .extra }}{{ toYaml . }}{{- end -}}
{{- end -}}

{{/* What both workloads' pods have in common. Takes root, of (the workload's values) and component. */}}
{{- define "leasehold.podSpec" -}}
automountServiceAccountToken: true
enableServiceLinks: false
{{- with concat .root.Values.imagePullSecrets .root.Values.global.imagePullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
securityContext:
  runAsNonRoot: true
  {{- with .root.Values.podSecurity.runAsUser }}
  runAsUser: {{ include "leasehold.number" . }}
  runAsGroup: {{ include "leasehold.number" . }}
  {{- end }}
  seccompProfile:
    type: RuntimeDefault
{{- if .of.priorityClassName }}
priorityClassName: {{ .of.priorityClassName }}
{{- else if .root.Values.priorityClasses.create }}
priorityClassName: {{ include (printf "leasehold.%s.name" .component) .root }}
{{- end }}
{{- with .of.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .of.affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .of.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "leasehold.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}
