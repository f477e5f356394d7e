# Everyday commands; `just` lists them.

default:
    @just --list

# Formatting and lints, without running anything
check:
    cargo fmt --check
    cargo clippy --all-targets -- -D warnings

# Everything a change must pass
test:
    scripts/test

# Only the comparisons with the reference; e.g. `just oracle snapshots` for image kinds of that name
oracle only='':
    ONLY={{only}} cargo test --no-fail-fast --test oracle_info --test oracle_convert --test oracle_convert_scenes --test oracle_snapshot --test oracle_locks --test oracle_bad_input --test arguments --test clients

# What takes hours, by stage: matrices crashes fuzz models
soak *stages:
    scripts/soak {{stages}}
