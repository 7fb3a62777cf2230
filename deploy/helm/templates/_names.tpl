{{/* Names and labels. Selectors are made of what no value changes: they are immutable once installed. */}}

{{/* At most 50 characters: a StatefulSet's pods carry its name and a hash in a label, which has room for 63. */}}
{{- define "onceflow.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{ .Values.fullnameOverride | trunc 50 | trimSuffix "-" }}
{{- else if contains "onceflow" .Release.Name -}}
{{ .Release.Name | trunc 50 | trimSuffix "-" }}
{{- else -}}
{{ printf "%s-onceflow" .Release.Name | trunc 50 | trimSuffix "-" }}
{{- end -}}
{{- end -}}

{{/* What all of the release's pods have: the workload's, the migration's, the test's. */}}
{{- define "onceflow.releaseLabels" -}}
app.kubernetes.io/name: onceflow
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{/* What selects the workload's pods, and never those of the migration. */}}
{{- define "onceflow.selector" -}}
{{ include "onceflow.releaseLabels" . }}
app.kubernetes.io/component: worker
{{- end -}}

{{/* Labels of an object: (dict "context" $ "component" "worker" "more" dict). Later ones cannot take ours away. */}}
{{- define "onceflow.labels" -}}
{{- $ours := include "onceflow.releaseLabels" .context | fromYaml -}}
{{- $_ := set $ours "app.kubernetes.io/component" .component -}}
{{- $_ := set $ours "app.kubernetes.io/version" (include "onceflow.version" .context) -}}
{{- $_ := set $ours "app.kubernetes.io/managed-by" .context.Release.Service -}}
{{- $_ := set $ours "helm.sh/chart" (printf "onceflow-%s" .context.Chart.Version | replace "+" "_") -}}
{{- merge $ours (.more | default dict) .context.Values.commonLabels | toYaml -}}
{{- end -}}

{{/* Labels of a pod: (dict "context" $ "component" "worker"). Not the chart's version: a new one alone restarts nothing. */}}
{{- define "onceflow.podLabels" -}}
{{- $labels := include "onceflow.labels" (dict "context" .context "component" .component "more" .context.Values.podLabels) | fromYaml -}}
{{- omit $labels "helm.sh/chart" | toYaml -}}
{{- end -}}

{{/* Of the image, as a label may say it. */}}
{{- define "onceflow.version" -}}
{{ .Values.image.tag | default .Chart.AppVersion | trunc 63 | trimAll "-_." }}
{{- end -}}

{{- define "onceflow.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}
{{- end -}}

{{- define "onceflow.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{ .Values.serviceAccount.name | default (include "onceflow.fullname" .) }}
{{- else -}}
{{ .Values.serviceAccount.name | default "default" }}
{{- end -}}
{{- end -}}

{{/* The migration runs before the release's own objects are there, so it brings its own account. */}}
{{- define "onceflow.migrationServiceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{ include "onceflow.fullname" . }}-migrate
{{- else -}}
{{ .Values.serviceAccount.name | default "default" }}
{{- end -}}
{{- end -}}
