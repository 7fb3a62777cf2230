{{/* Settings: what stands in the ConfigMap, what comes from Secrets, and what is refused. */}}

{{/* Settings that hold secrets. A test compares the list with the processor's own. */}}
{{- define "onceflow.secretNames" -}}
- postgres.dsn
- postgres.direct_dsn
- kafka.sasl.password
- kafka.sasl.oauthbearer_client_secret
- kafka.sasl.oauthbearer_config
- kafka.ssl.key
- kafka.ssl.key_password
- registry.password
- registry.bearer_token
- registry.oauth.client_secret
- registry.ssl.key_password
- payloads.keys
- web.tokens
{{- end -}}

{{/* The value of a setting, `kafka.sasl.password`, or nothing: (dict "context" $ "name" "…" "default" …). */}}
{{- define "onceflow.setting" -}}
{{- $found := .context.Values.settings -}}
{{- range splitList "." .name -}}
{{- $found = (kindIs "map" $found) | ternary (get (default dict $found) .) "" -}}
{{- end -}}
{{- if or (eq (toString $found) "") (kindIs "invalid" $found) -}}{{ get . "default" | default "" }}{{- else -}}{{ $found }}{{- end -}}
{{- end -}}

{{/* Seconds of a duration as settings write it: 30s, 1m30s, 500ms, a number of seconds. */}}
{{- define "onceflow.seconds" -}}
{{- $text := toString . | lower | nospace -}}
{{- if not (regexMatch "^([0-9]+([.][0-9]+)?(us|ms|s|min|m|h|d)?)+$" $text) -}}
{{- fail (printf "%q is no duration: 30s, 1m30s, 500ms" .) -}}
{{- end -}}
{{- $seconds := 0.0 -}}
{{- range regexFindAll "[0-9]+([.][0-9]+)?[a-z]*" $text -1 -}}
{{- $unit := regexFind "[a-z]+$" . | default "s" -}}
{{- $factor := get (dict "us" 0.000001 "ms" 0.001 "s" 1.0 "m" 60.0 "min" 60.0 "h" 3600.0 "d" 86400.0) $unit -}}
{{- $seconds = addf $seconds (mulf (regexFind "^[0-9.]+" . | float64) $factor) -}}
{{- end -}}
{{- $seconds -}}
{{- end -}}

{{/* Variables from Secrets: the argument is a map like `secretSettings`. */}}
{{- define "onceflow.secretEnvironment" -}}
{{- range $name, $from := . }}
- name: PROCESSOR_{{ $name | replace "." "_" | upper }}
  valueFrom:
    secretKeyRef:
      name: {{ $from.secret }}
      key: {{ $from.key }}
{{- end }}
{{- end -}}

{{/* What every container of ours has in its environment: (dict "context" $ "secrets" map). */}}
{{- define "onceflow.environment" -}}
- name: PROCESSOR_CONFIG
  value: /etc/onceflow/processor.yaml
- name: POD_NAME
  valueFrom:
    fieldRef:
      fieldPath: metadata.name
- name: POD_NAMESPACE
  valueFrom:
    fieldRef:
      fieldPath: metadata.namespace
{{- include "onceflow.secretEnvironment" .secrets }}
{{- with .context.Values.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Whether there is a status server; nothing if not. */}}
{{- define "onceflow.hasHttp" -}}
{{- if ne (include "onceflow.setting" (dict "context" . "name" "http.enabled" "default" "true")) "false" -}}yes{{- end -}}
{{- end -}}

{{- define "onceflow.httpPort" -}}
{{ include "onceflow.setting" (dict "context" . "name" "http.port" "default" "9464") | float64 | int }}
{{- end -}}

{{/* Whether there is an HTTP server for triggers and the admin API; nothing if not. */}}
{{- define "onceflow.hasWeb" -}}
{{- if eq (include "onceflow.setting" (dict "context" . "name" "web.enabled" "default" "false")) "true" -}}yes{{- end -}}
{{- end -}}

{{- define "onceflow.webPort" -}}
{{ include "onceflow.setting" (dict "context" . "name" "web.port" "default" "8080") | float64 | int }}
{{- end -}}
