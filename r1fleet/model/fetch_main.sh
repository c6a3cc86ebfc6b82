if [ "${2-}" = status ]; then
  status
  exit 0
fi
mkdir -p "$run_dir"
trap 'put stopped "it was stopped on the host"; exit 143' INT TERM
put starting
auth=
case ${2-} in
  api) api ;;
  *) fetch ;;
esac
total=$(status | grep -E '^(total|done) ')
put complete
printf '%s\nplaced %s\n' "$total" "$placed" >>"$run_dir/status"
