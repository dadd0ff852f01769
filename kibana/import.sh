#!/bin/sh
# Import modelwatch.ndjson into Kibana, once it is there: data views, searches, charts, dashboards. Safe to repeat: what is
# there under our ids is replaced. Needs curl only.
#   KIBANA_URL      default http://localhost:5601
#   KIBANA_API_KEY  where Kibana asks for one
#   KIBANA_WAIT_SECONDS  how long to wait for it, default 300
set -eu
url="${KIBANA_URL:-http://localhost:5601}"
file="$(dirname "$0")/modelwatch.ndjson"
deadline=$(($(date +%s) + ${KIBANA_WAIT_SECONDS:-300}))

ask() {
  if [ -n "${KIBANA_API_KEY:-}" ]; then
    printf 'header = "Authorization: ApiKey %s"\n' "$KIBANA_API_KEY" | curl --silent --show-error --config - "$@"
  else
    curl --silent --show-error "$@"
  fi
}

until [ "$(ask --output /dev/null --write-out '%{http_code}' "$url/api/status" 2>/dev/null)" = 200 ]; do
  if [ "$(date +%s)" -ge "$deadline" ]; then
    echo "Kibana does not answer at $url/api/status; is KIBANA_URL right, and KIBANA_API_KEY if it asks for one?" >&2
    exit 1
  fi
  sleep 1
done

answer="$(ask --request POST "$url/api/saved_objects/_import?overwrite=true" --header 'kbn-xsrf: true' --form "file=@$file")"
case "$answer" in
  *'"success":true'*) echo "$url: $(wc -l <"$file" | tr -d ' ') saved objects imported" ;;
  *)
    echo "Kibana refuses the saved objects: $answer" >&2
    exit 1
    ;;
esac
