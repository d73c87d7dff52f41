{{- define "leasehold.definitions" -}}
{{- $known := .Capabilities.APIVersions -}}
{{- if and .Values.checkServer (not .Values.crds.enabled) ($known.Has "v1/Namespace") (not ($known.Has "leasehold.dev/v1alpha1/CapacityPool")) -}}
{{- fail "crds.enabled=false, and the server does not know leasehold.dev/v1alpha1 CapacityPool: install the definitions first (kubectl apply --server-side -f crds/), or set crds.enabled=true." -}}
{{- end -}}
{{- end -}}
