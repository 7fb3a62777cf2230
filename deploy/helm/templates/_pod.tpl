{{/* The workload's pods, the same in a Deployment and a StatefulSet. */}}
{{- define "onceflow.podTemplate" -}}
metadata:
  labels:
    {{- include "onceflow.podLabels" (dict "context" . "component" "worker") | nindent 4 }}
  annotations:
    # Settings are read once, at the start: pods are replaced when they change.
    checksum/settings: {{ .Values.settings | toYaml | sha256sum }}
    {{- with .Values.podAnnotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  serviceAccountName: {{ include "onceflow.serviceAccountName" . }}
  {{- include "onceflow.podBasics" . | nindent 2 }}
  terminationGracePeriodSeconds: {{ .Values.terminationGracePeriodSeconds }}
  {{- with .Values.priorityClassName }}
  priorityClassName: {{ . }}
  {{- end }}
  {{- if .Values.topologySpreadConstraints }}
  topologySpreadConstraints:
    {{- toYaml .Values.topologySpreadConstraints | nindent 4 }}
  {{- else if or (ne .Values.topologySpread.zone "Off") (ne .Values.topologySpread.node "Off") }}
  topologySpreadConstraints:
    {{- range $key, $when := dict "topology.kubernetes.io/zone" .Values.topologySpread.zone "kubernetes.io/hostname" .Values.topologySpread.node }}
    {{- if ne $when "Off" }}
    - topologyKey: {{ $key }}
      maxSkew: 1
      whenUnsatisfiable: {{ $when }}
      labelSelector:
        matchLabels:
          {{- include "onceflow.selector" $ | nindent 10 }}
      {{- if eq $.Values.kind "Deployment" }}
      # New pods are spread among themselves, not around those that they replace.
      matchLabelKeys: [pod-template-hash]
      {{- end }}
    {{- end }}
    {{- end }}
  {{- end }}
  {{- with .Values.initContainers }}
  initContainers:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  containers:
    - name: processor
      {{- include "onceflow.containerBasics" . | nindent 6 }}
      args: [run, {{ .Values.app | quote }}{{ if gt (int .Values.processes) 1 }}, --processes, {{ .Values.processes | int | quote }}{{ end }}]
      env:
        {{- include "onceflow.environment" (dict "context" . "secrets" .Values.secretSettings) | nindent 8 }}
        {{- if .Values.staticMembership }}
        - name: PROCESSOR_KAFKA_GROUP_INSTANCE_ID
          value: $(POD_NAME)
        # With the namespace: releases of one name in two namespaces may share a database.
        - name: PROCESSOR_EXECUTOR_NAME
          value: $(POD_NAMESPACE)/$(POD_NAME)
        {{- end }}
      {{- if or (include "onceflow.hasHttp" .) (include "onceflow.hasWeb" .) }}
      ports:
        {{- if include "onceflow.hasHttp" . }}
        - name: http
          containerPort: {{ include "onceflow.httpPort" . }}
        {{- end }}
        {{- if include "onceflow.hasWeb" . }}
        - name: web
          containerPort: {{ include "onceflow.webPort" . }}
        {{- end }}
      {{- end }}
      {{- if include "onceflow.hasHttp" . }}
      startupProbe:
        httpGet: {path: /readyz, port: http}
        {{- toYaml .Values.probes.startup | nindent 8 }}
      livenessProbe:
        httpGet: {path: /livez, port: http}
        {{- toYaml .Values.probes.liveness | nindent 8 }}
      readinessProbe:
        httpGet: {path: /readyz, port: http}
        {{- toYaml .Values.probes.readiness | nindent 8 }}
      {{- end }}
      resources:
        {{- toYaml .Values.resources | nindent 8 }}
      volumeMounts:
        {{- include "onceflow.mounts" . | nindent 8 }}
    {{- with .Values.sidecars }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  volumes:
    {{- include "onceflow.volumes" (dict "context" . "configMap" (include "onceflow.fullname" .)) | nindent 4 }}
{{- end -}}

{{/* What every pod of the release has: the workload's, the migration's, the test's. */}}
{{- define "onceflow.podBasics" -}}
automountServiceAccountToken: {{ .Values.serviceAccount.automountToken }}
# A Service called `processor` would give every pod of the namespace variables that look like misspelt settings.
enableServiceLinks: false
securityContext:
  {{- toYaml .Values.podSecurityContext | nindent 2 }}
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* What every container of ours has. */}}
{{- define "onceflow.containerBasics" -}}
image: {{ include "onceflow.image" . }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
command: [processor]
securityContext:
  {{- toYaml .Values.securityContext | nindent 2 }}
{{- with .Values.extraEnvFrom }}
envFrom:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "onceflow.mounts" -}}
- name: settings
  mountPath: /etc/onceflow
  readOnly: true
- name: tmp
  mountPath: /tmp
{{- with .Values.extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* (dict "context" $ "configMap" name) */}}
{{- define "onceflow.volumes" -}}
- name: settings
  configMap:
    name: {{ .configMap }}
- name: tmp
  emptyDir:
    sizeLimit: 64Mi
{{- with .context.Values.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end -}}
