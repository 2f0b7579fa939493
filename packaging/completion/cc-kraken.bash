# bash completion for cc-kraken(8)

_cc_kraken() {
    local current=${COMP_WORDS[COMP_CWORD]} command=
    local i
    for ((i = 1; i < COMP_CWORD; i++)); do
        case ${COMP_WORDS[i]} in
            -*) ;;
            *) command=${COMP_WORDS[i]}; break ;;
        esac
    done
    local words
    case $command in
        "") words="status plan apply wait peers fleet explain check enable disable --debug --version --help" ;;
        status) words="--json --prometheus --help" ;;
        plan) words="--json --help" ;;
        apply) words="--background --wait --help" ;;
        wait) words="--attached --node --help $(cc-kraken status 2>/dev/null |
            awk '/^SET /{sets = 1; next} !/ vol-/{sets = 0} sets{print $1}')" ;;
        peers) words="--json --format --join --wait --help" ;;
        fleet)
            [[ ${COMP_WORDS[COMP_CWORD - 1]} == --config ]] &&
                { compopt -o default; return; }
            words="--json --region --profile --namespace --config --adopt --help"
            ;;
        explain) words="--help $(cc-kraken explain 2>/dev/null | cut -d: -f1)" ;;
        check)
            [[ $current == -* ]] || { compopt -o default; return; }
            words="--help"
            ;;
        enable) words="--schema --no-schema --check --help" ;;
        *) words="--help" ;;
    esac
    mapfile -t COMPREPLY < <(compgen -W "$words" -- "$current")
}

complete -F _cc_kraken cc-kraken
