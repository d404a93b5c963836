#!/bin/sh
# Claude Code's status line: what your key has cost this month and today, as the gateway says.
#
# In ~/.claude/settings.json:
#   {"statusLine": {"type": "command", "command": "sh ~/.claude/ccproxy-statusline.sh"}}
#
# Needs sh and curl. The gateway is asked at most every 30 seconds; in between, and while it is away, a file of your own
# in ~/.cache/ccproxy answers. The key is taken from Claude Code's environment and stands in no file and no command line.

FRESH=30
umask 077
LC_ALL=C
export LC_ALL

[ -t 0 ] || cat > /dev/null # what Claude Code tells of the session is not needed

# Whichever of the two is a key of a gateway; any other credential is sent nowhere.
token=
for candidate in "${ANTHROPIC_API_KEY:-}" "${ANTHROPIC_AUTH_TOKEN:-}"; do
    case $candidate in
        *[!A-Za-z0-9_]*) ;;
        ccp_*) token=$candidate && break ;;
    esac
done
base=${ANTHROPIC_BASE_URL:-}
base=${base%/}
[ -n "$token" ] && [ -n "$base" ] || exit 0

folder=${XDG_CACHE_HOME:-${HOME:-/nowhere}/.cache}/ccproxy
file=$folder/status-$(printf '%s %s' "$base" "$token" | cksum | cut -d ' ' -f 1)
now=$(date +%s)

number() { case $1 in '' | *[!0-9]* | 0?* | ?????????????*) echo 0 ;; *) echo "$1" ;; esac; }

# When the gateway was asked last, when it answered last, and what.
asked=0 answered=0 line=
[ -r "$file" ] && read -r asked answered line < "$file"
asked=$(number "$asked") answered=$(number "$answered")

if [ $((now - asked)) -ge $FRESH ] || [ "$asked" -gt "$now" ]; then
    # -q first: a .curlrc must not turn the request into another. The key goes in by the pipe.
    reply=$(printf 'header = "x-api-key: %s"\n' "$token" |
        curl -q --silent --fail --globoff --max-time 2 --max-filesize 1000000 --proto '=http,https' --config - \
            --url "$base/v1/usage" 2> /dev/null)
    # A quotation mark inside a JSON text has a backslash before it: nothing in there can look like this field.
    told=$(printf '%s' "$reply" | sed -n 's/.*"summary":"\([^"\\]*\)".*/\1/p' | tr -cd '\40-\176' | cut -c 1-160)
    if [ -n "$told" ]; then
        line=$told answered=$now
    fi
    { mkdir -p "$folder" && printf '%s %s %s\n' "$now" "$answered" "$line" > "$file.$$" && mv -f "$file.$$" "$file"; } 2> /dev/null
fi

line=$(printf '%s' "$line" | tr -cd '\40-\176')
age=$((now - answered))
if [ -z "$line" ]; then
    line='the gateway tells no figures'
elif [ $age -ge $((FRESH * 2)) ]; then
    line="$line ($((age / 60)) min ago: the gateway does not answer)"
fi
printf 'ccproxy: %s\n' "$line"
