# The targets are what CI runs, see .ci/run.

CARGO ?= cargo

.PHONY: help test test-kill unit fuzz lint docs deny audit bench bench-isolation demo ci

help: ## Lists the targets.
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

# One set of features for all, so that the product is built once.
TESTED = --features fail-points

# Everything but the tests of the whole product.
PARTS = --workspace --lib --bins --test fuzz_corpora

test: ## Every test. Installs RabbitMQ, PostgreSQL and tinyproxy if they are missing; starts private ones.
	tests/services.sh
	CARGO="$(CARGO)" tests/run "$(TESTED) $(PARTS)" "$(TESTED) --test main"

# What the environment does not say.
test-kill: export OUTHOOK_KILLS ?= 20
test-kill: export OUTHOOK_KILL_EVENTS ?= 20000
test-kill: ## The daemon killed 20 times during 20,000 events; CONTRIBUTING.md tells how to change that.
	tests/services.sh
	$(CARGO) test $(TESTED) --test main kills:: -- --nocapture --test-threads=1

unit: ## The tests that need no services.
	$(CARGO) test $(TESTED) $(PARTS)

fuzz: export FUZZ_SECONDS ?= 60
fuzz: ## Every fuzz target of the core for FUZZ_SECONDS; needs a nightly compiler and cargo-fuzz.
	core/fuzz/run

lint: ## Formatting, and clippy with warnings denied.
	$(CARGO) fmt --all -- --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings

docs: ## The documentation of the code, private items too.
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --no-deps --document-private-items

deny: ## Licences, sources and duplicate packages. Installs cargo-deny if it is missing.
	@$(CARGO) deny --version >/dev/null 2>&1 || $(CARGO) install --locked cargo-deny
	$(CARGO) deny check bans licenses sources

audit: ## Known vulnerabilities; needs the network.
	@$(CARGO) deny --version >/dev/null 2>&1 || $(CARGO) install --locked cargo-deny
	$(CARGO) deny check advisories

bench: ## outhook beside a floor and a sequential worker; prints events per second and ratios.
	benches/run

bench-isolation: ## What bots that never answer cost the others: latencies with 0, 10, 25 and 50 % of all events to them.
	benches/run isolation

demo: ## The main job on an embedded database.
	$(CARGO) run --release -- demo

ci: lint docs deny test ## What CI runs.
