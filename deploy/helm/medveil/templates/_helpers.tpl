{{- define "medveil.labels" -}}
app.kubernetes.io/name: medveil
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .part }}
{{- end }}

{{- define "medveil.name" -}}
{{ printf "%s-%s" (.root.Release.Name | trunc 40 | trimSuffix "-") .part }}
{{- end }}

{{- define "medveil.image" -}}
{{- $tag := .image.tag | default .root.Chart.AppVersion -}}
{{ .image.repository }}:{{ $tag }}{{ with .image.digest }}@{{ . }}{{ end }}
{{- end }}

{{- define "medveil.pod" -}}
automountServiceAccountToken: false
enableServiceLinks: false
securityContext:
  runAsNonRoot: true
  runAsUser: {{ .uid }}
  runAsGroup: {{ .uid }}
  fsGroup: {{ .uid }}
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile: {type: RuntimeDefault}
{{- with .root.Values.imagePullSecrets }}
imagePullSecrets: {{ toJson . }}
{{- end }}
{{- with .root.Values.nodeSelector }}
nodeSelector: {{ toJson . }}
{{- end }}
{{- with .root.Values.tolerations }}
tolerations: {{ toJson . }}
{{- end }}
{{- end }}

{{- define "medveil.locked" -}}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
{{- end }}

{{- define "medveil.alive" -}}
{{- /* It accepts no connection, so a file that it touches is looked at. */ -}}
startupProbe: {exec: {command: [python3, /opt/medveil/healthy.py, {{ . }}]}, periodSeconds: 5, timeoutSeconds: 10, failureThreshold: 60}
livenessProbe: {exec: {command: [python3, /opt/medveil/healthy.py, {{ . }}]}, periodSeconds: 60, timeoutSeconds: 20}
{{- end }}

{{- define "medveil.claim" -}}
apiVersion: v1
kind: PersistentVolumeClaim
metadata:
  name: {{ include "medveil.name" . }}
  labels: {{- include "medveil.labels" . | nindent 4 }}
  annotations: {helm.sh/resource-policy: keep}
spec:
  accessModes: [ReadWriteOnce]
  {{- with .storage.className }}
  storageClassName: {{ . | quote }}
  {{- end }}
  resources: {requests: {storage: {{ .storage.size | quote }}}}
{{- end }}

{{- define "medveil.dns" -}}
- ports: [{protocol: UDP, port: 53}, {protocol: TCP, port: 53}]
{{- end }}

{{- define "medveil.ways" -}}
{{- range . }}
- to: [{ipBlock: {cidr: {{ required "MedVeil: every entry of egress needs a cidr, as 203.0.113.7/32" .cidr | quote }}}}]
  ports: [{protocol: TCP, port: {{ required "MedVeil: every entry of egress needs a port" .port }}}]
{{- end }}
{{- end }}
