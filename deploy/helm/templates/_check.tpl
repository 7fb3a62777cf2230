{{/* Refuses what would hurt later, and says why. Called once, by the ConfigMap, which is always rendered. */}}
{{- define "onceflow.check" -}}
{{- if not .Values.app -}}
{{- fail "app: say which app runs, as MODULE:app (--set app=shop.app:app)" -}}
{{- end -}}
{{- range $name := include "onceflow.secretNames" . | fromYamlArray -}}
{{- $value := include "onceflow.setting" (dict "context" $ "name" $name) -}}
{{- $isPath := and (eq $name "kafka.ssl.key") (hasPrefix "/" $value) -}}
{{- if and $value (not $isPath) (not (regexMatch "^[$][{][A-Za-z_][A-Za-z0-9_]*[}]$" $value)) -}}
{{- fail (printf "settings.%s is a secret, and settings stand in a ConfigMap: use secretSettings, or ${NAME} with a variable of yours" $name) -}}
{{- end -}}
{{- end -}}
{{- range .Values.extraEnv -}}
{{- if hasPrefix "PROCESSOR_" .name -}}
{{- fail (printf "extraEnv: %s: settings have one place, settings or secretSettings" .name) -}}
{{- end -}}
{{- end -}}
{{- $drain := include "onceflow.setting" (dict "context" $ "name" "executor.drain" "default" "30s") -}}
{{- /* A supervisor gives its workers 20 s more than the drain before it ends them itself. */ -}}
{{- $least := addf (include "onceflow.seconds" $drain | float64) (ternary 25.0 10.0 (gt (int .Values.processes) 1)) -}}
{{- if lt (float64 .Values.terminationGracePeriodSeconds) $least -}}
{{- fail (printf "terminationGracePeriodSeconds: %v is too short for settings.executor.drain %s: a stop waits so long for running steps, then closes connections; at least %v" .Values.terminationGracePeriodSeconds $drain $least) -}}
{{- end -}}
{{- $fullname := include "onceflow.fullname" . -}}
{{- if not (regexMatch "^[a-z]([-a-z0-9]*[a-z0-9])?$" $fullname) -}}
{{- fail (printf "%q is no name for a Service, which begins with a letter and has no dots: another release name, or fullnameOverride" $fullname) -}}
{{- end -}}
{{- range $name := list "hpa" "keda" -}}
{{- $scaler := index $.Values $name -}}
{{- if and $scaler.enabled (gt (int $scaler.minReplicas) (int $scaler.maxReplicas)) -}}
{{- fail (printf "%s: minReplicas %v is more than maxReplicas %v" $name $scaler.minReplicas $scaler.maxReplicas) -}}
{{- end -}}
{{- end -}}
{{- if and .Values.hpa.enabled .Values.keda.enabled -}}
{{- fail "hpa and keda: one of them; two autoscalers would undo what the other does" -}}
{{- end -}}
{{- if .Values.keda.enabled -}}
{{- $group := include "onceflow.setting" (dict "context" . "name" "kafka.group") -}}
{{- $servers := include "onceflow.brokersForKeda" . -}}
{{- $mirror := include "onceflow.setting" (dict "context" . "name" "kafka.mirror_every" "default" "5s") -}}
{{- if not (or .Values.keda.topics .Values.keda.triggers) -}}
{{- fail "keda: nothing to scale on: say keda.topics" -}}
{{- end -}}
{{- if and .Values.keda.topics (or (not $group) (contains "${" $group)) -}}
{{- fail "keda: the group is looked up in Kafka: say settings.kafka.group, in words" -}}
{{- end -}}
{{- if and .Values.keda.topics (or (not $servers) (contains "${" $servers)) -}}
{{- fail "keda: say keda.bootstrapServers, or settings.kafka.bootstrap_servers in words" -}}
{{- end -}}
{{- if and .Values.keda.topics (eq (include "onceflow.seconds" $mirror | float64) 0.0) -}}
{{- fail "keda: it reads the progress that is mirrored to Kafka, and settings.kafka.mirror_every 0 mirrors nothing" -}}
{{- end -}}
{{- end -}}
{{- if and .Values.podMonitor.enabled .Values.serviceMonitor.enabled -}}
{{- fail "podMonitor and serviceMonitor: one of them; scraped twice, every sum counts twice" -}}
{{- end -}}
{{- if and .Values.staticMembership (ne .Values.kind "StatefulSet") -}}
{{- fail "staticMembership: only with kind: StatefulSet; the pods of a Deployment never come back under their names" -}}
{{- end -}}
{{- if eq (include "onceflow.hasHttp" .) "" -}}
{{- if or .Values.podMonitor.enabled .Values.serviceMonitor.enabled -}}
{{- fail "settings.http.enabled: false: there is nothing for a monitor to scrape" -}}
{{- end -}}
{{- end -}}
{{- if and (include "onceflow.hasWeb" .) (include "onceflow.hasHttp" .) (eq (include "onceflow.webPort" .) (include "onceflow.httpPort" .)) -}}
{{- fail "settings.web.port: it is that of settings.http.port; the two servers have a port each" -}}
{{- end -}}
{{- if and .Values.prometheusRule.enabled (not .Values.podMonitor.enabled) (not .Values.serviceMonitor.enabled) -}}
{{- fail "prometheusRule: the alerts select this release by labels that podMonitor or serviceMonitor gives; enable one of them" -}}
{{- end -}}
{{- end -}}
