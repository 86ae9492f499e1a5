{{- define "omgsr.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "omgsr.fullname" -}}
{{- $name := include "omgsr.name" . -}}
{{- $full := ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) -}}
{{- default $full .Values.fullnameOverride | trunc 50 | trimSuffix "-" -}}
{{- end -}}

{{/* Takes a list: the root, and a component's name or "". */}}
{{- define "omgsr.selector" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: {{ include "omgsr.name" $root }}
app.kubernetes.io/instance: {{ $root.Release.Name }}
{{- with index . 1 }}
app.kubernetes.io/component: {{ . }}
{{- end }}
{{- end -}}

{{- define "omgsr.labels" -}}
{{- $root := index . 0 -}}
{{ include "omgsr.selector" . }}
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version }}
{{- end -}}

{{- define "omgsr.image" -}}
{{- $root := index . 0 -}}
{{- $image := index $root.Values.image (index . 1) -}}
{{ printf "%s:%s" $image.repository (default $root.Chart.AppVersion $image.tag) }}
{{- end -}}

{{/* The queue's address, with the files of its secrets; a password is never in it. */}}
{{- define "omgsr.redisUrl" -}}
{{- $redis := .Values.redis -}}
{{- $options := list -}}
{{- if $redis.passwordSecret.name }}{{ $options = append $options "password_file=/etc/omgsr/redis/password" }}{{ end -}}
{{- if $redis.caSecret.name }}{{ $options = append $options "ssl_ca_certs=/etc/omgsr/redis/ca.crt" }}{{ end -}}
{{- with $redis.sentinelUser }}{{ $options = append $options (printf "sentinel_username=%s" .) }}{{ end -}}
{{- if $redis.sentinelPasswordSecret.name -}}
{{- $options = append $options "sentinel_password_file=/etc/omgsr/redis/sentinel-password" -}}
{{- end -}}
{{- $redis.url -}}
{{- if $options }}{{ ternary "&" "?" (contains "?" $redis.url) }}{{ join "&" $options }}{{ end -}}
{{- end -}}

{{/* Settings of a component, the more particular last. */}}
{{- define "omgsr.settings" -}}
{{- $root := index . 0 -}}
{{- $values := $root.Values -}}
{{- $component := index . 1 -}}
{{- $own := index $values $component -}}
{{- $said := dict "OMGSR_ADMIN_HOST" "0.0.0.0" "OMGSR_STATE_DIR" "/var/lib/omgsr" "HOME" "/tmp" -}}
{{- $_ := set $said "OMGSR_DRAIN_S" ($own.drainSeconds | int | toString) -}}
{{- if not $values.redis.urlSecret.name }}{{ $_ := set $said "REDIS_URL" (include "omgsr.redisUrl" $root) }}{{ end -}}
{{- with $values.blobs.s3 }}
{{- if .url -}}
{{- $_ := set $said "OMGSR_BLOB_URL" .url -}}
{{- if .endpoint }}{{ $_ := set $said "AWS_ENDPOINT_URL" .endpoint }}{{ end -}}
{{- if .region }}{{ $_ := set $said "AWS_DEFAULT_REGION" .region }}{{ end -}}
{{- if .caSecret.name }}{{ $_ := set $said "AWS_CA_BUNDLE" "/etc/omgsr/s3/ca.crt" }}{{ end -}}
{{- end -}}
{{- end -}}
{{- if eq $component "api" -}}
{{- $_ := set $said "OMGSR_HOST" "0.0.0.0" -}}
{{- $_ := set $said "OMGSR_ADMIN_PORT" "9000" -}}
{{- $_ := set $said "OMGSR_NOTICE_S" ($own.noticeSeconds | int | toString) -}}
{{- if $own.keysSecret.name }}{{ $_ := set $said "OMGSR_API_KEYS" "/etc/omgsr/keys/keys.json" }}{{ end -}}
{{- if $own.tlsSecret -}}
{{- $_ := set $said "OMGSR_TLS_CERT" "/etc/omgsr/tls/tls.crt" -}}
{{- $_ := set $said "OMGSR_TLS_KEY" "/etc/omgsr/tls/tls.key" -}}
{{- end -}}
{{- else -}}
{{- $_ := set $said "OMGSR_WORKER_PORT" "9100" -}}
{{- $_ := set $said "OMGSR_DEVICE" (ternary "cuda" "cpu" (gt (int $own.gpus) 0)) -}}
{{- if eq $values.weights.source "claim" }}{{ $_ := set $said "OMGSR_MODELS" "[\"/models\"]" }}{{ end -}}
{{- end -}}
{{- toYaml (mergeOverwrite $said $values.settings $own.settings) -}}
{{- end -}}

{{/* env and envFrom of a component's container. */}}
{{- define "omgsr.environment" -}}
{{- $root := index . 0 -}}
envFrom:
  - configMapRef:
      name: {{ include "omgsr.fullname" $root }}-{{ index . 1 }}
  {{- with $root.Values.blobs.s3 }}
  {{- if and .url .credentialsSecret }}
  - secretRef:
      name: {{ .credentialsSecret }}
  {{- end }}
  {{- end }}
{{- with $root.Values.redis.urlSecret }}
{{- if .name }}
env:
  - name: REDIS_URL
    valueFrom:
      secretKeyRef:
        name: {{ .name }}
        key: {{ .key }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "omgsr.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

{{- define "omgsr.mounts" -}}
{{- $values := .Values -}}
- name: tmp
  mountPath: /tmp
- name: state
  mountPath: /var/lib/omgsr
{{- if not $values.blobs.s3.url }}
- name: blobs
  mountPath: /var/lib/omgsr/blobs
{{- end }}
{{- if include "omgsr.redisFiles" . }}
- name: redis
  mountPath: /etc/omgsr/redis
  readOnly: true
{{- end }}
{{- if $values.blobs.s3.caSecret.name }}
- name: s3-ca
  mountPath: /etc/omgsr/s3
  readOnly: true
{{- end }}
{{- end -}}

{{- define "omgsr.volumes" -}}
{{- $values := .Values -}}
- name: tmp
  emptyDir: {}
- name: state
  emptyDir: {}
{{- if not $values.blobs.s3.url }}
- name: blobs
  persistentVolumeClaim:
    claimName: {{ default (printf "%s-blobs" (include "omgsr.fullname" .)) $values.blobs.volume.existingClaim }}
{{- end }}
{{- with include "omgsr.redisFiles" . }}
- name: redis
  projected:
    sources:
      {{- . | nindent 6 }}
{{- end }}
{{- with $values.blobs.s3.caSecret }}
{{- if .name }}
- name: s3-ca
  secret:
    secretName: {{ .name }}
    items:
      - key: {{ .key }}
        path: ca.crt
{{- end }}
{{- end }}
{{- end -}}

{{/* The Secrets that the queue's address speaks of, as files; empty when it speaks of none. */}}
{{- define "omgsr.redisFiles" -}}
{{- $redis := .Values.redis -}}
{{- range $path, $secret := dict "password" $redis.passwordSecret "ca.crt" $redis.caSecret "sentinel-password" $redis.sentinelPasswordSecret }}
{{- if $secret.name }}
- secret:
    name: {{ $secret.name }}
    items:
      - key: {{ $secret.key }}
        path: {{ $path }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "omgsr.weightsClaim" -}}
{{- default (printf "%s-weights" (include "omgsr.fullname" .)) .Values.weights.existingClaim -}}
{{- end -}}

{{/* What all pods of a component share, but for their containers and volumes. */}}
{{- define "omgsr.pod" -}}
{{- $root := index . 0 -}}
{{- $own := index $root.Values (index . 1) -}}
serviceAccountName: {{ include "omgsr.fullname" $root }}
automountServiceAccountToken: false
enableServiceLinks: false
securityContext:
  {{- toYaml $root.Values.podSecurityContext | nindent 2 }}
{{- with $root.Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- with $own.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $own.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $own.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "omgsr.scraping" -}}
{{- with .Values.networkPolicy.prometheusFrom -}}
- ports:
    - {protocol: TCP, port: metrics}
  from:
    {{- toYaml . | nindent 4 }}
{{- end -}}
{{- end -}}

{{- define "omgsr.egress" -}}
{{- $policy := .Values.networkPolicy -}}
- ports:
    - {protocol: UDP, port: 53}
    - {protocol: TCP, port: 53}
{{- $ways := list $policy.redis -}}
{{- if .Values.blobs.s3.url }}{{ $ways = append $ways $policy.s3 }}{{ end -}}
{{- range $way := $ways }}
- ports:
    {{- range $way.ports }}
    - {protocol: TCP, port: {{ . }}}
    {{- end }}
  {{- with $way.to }}
  to:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end }}
{{- with $policy.extraEgress }}
{{ toYaml . }}
{{- end }}
{{- end -}}
