# Ferrule: how it is built, tested and installed. `make` alone lists the targets.

PREFIX     ?= /usr/local
SYSCONFDIR ?= /etc
CNIBINDIR  ?= /opt/cni/bin
CNICONFDIR ?= /etc/cni/net.d
DESTDIR    ?=

CARGO  ?= cargo
TARGET := $(or $(CARGO_TARGET_DIR),target)
HOST   := $(shell rustc -vV 2>/dev/null | sed -n 's/^host: //p')

DAEMONS := ipamd routed proxyd
PLUGIN  := $(TARGET)/$(HOST)/plugin/ferrule

BINDIR    := $(DESTDIR)$(PREFIX)/bin
LIBDIR    := $(DESTDIR)$(PREFIX)/lib
DOCDIR    := $(DESTDIR)$(PREFIX)/share/doc/ferrule
ETCDIR    := $(DESTDIR)$(SYSCONFDIR)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

.PHONY: help
help: ## Lists the targets
	@echo 'make TARGET [PREFIX=$(PREFIX)] [DESTDIR=]'
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | while IFS="$$(printf '\t')" read -r name text; do \
	    printf '  %-10s %s\n' "$$name" "$$text"; done

.PHONY: setup
setup: ## Checks that all tools are there; installs Debian packages when it is root
	@tests/setup

.PHONY: build
build: daemons plugin ## Builds the daemons and the plugin in release

.PHONY: daemons
daemons:
	$(CARGO) build --locked --release $(addprefix --package ,$(DAEMONS))

# One file for a host with any C library or none: linked statically, and at a fixed place, which saves the start-up the
# relocations. Naming the target keeps these flags from build scripts and procedural macros.
STATIC := RUSTFLAGS='-C target-feature=+crt-static -C relocation-model=static' \
	    $(CARGO) build --locked --profile plugin --target $(HOST)
.PHONY: plugin
plugin:
	$(STATIC) --package ferrule-cni

.PHONY: test
test: setup style build ## All checks: style, unit and integration tests, examples, and the three-node network
	$(CARGO) nextest run --locked --workspace
	$(CARGO) test --locked --doc --quiet --workspace
	./test-netns.sh

.PHONY: soak
soak: ## Kills ipamd a thousand times under load: 3 minutes
	FERRULE_KILLS=1000 $(CARGO) test --locked --release --package ipamd --test all crash:: -- --nocapture

FUZZ ?= -max_total_time=300
.PHONY: fuzz
fuzz: ## Feeds the plugin's standard input and environment with libFuzzer's inventions (FUZZ='$(FUZZ)')
	@$(CARGO) +nightly fuzz --version >/dev/null 2>&1 || \
	    { echo 'make fuzz: type: rustup toolchain install nightly && cargo install --locked cargo-fuzz' >&2; exit 1; }
	mkdir -p fuzz/corpus/request
	$(CARGO) +nightly fuzz run --fuzz-dir fuzz request fuzz/corpus/request fuzz/seeds -- \
	    -dict=fuzz/request.dict -max_len=8192 $(FUZZ)

.PHONY: test-vm
test-vm: ## What takes another kernel: power cuts under load, and WireGuard (root): 10 minutes
	tests/setup --vm
	tests/vm/vmrun -- true
	$(CARGO) test --locked --package ipamd --test powercut -- --ignored --nocapture --test-threads 1
	$(CARGO) test --locked --config "target.$(HOST).runner = 'tests/vm/in-vm'" --package ferrule-netlink --package routed \
	    --test wireguard -- --ignored --nocapture --test-threads 1

.PHONY: run
run: ## Shows the pod network on three nodes made of namespaces (./test-netns.sh --help)
	./test-netns.sh

.PHONY: bench
bench: daemons plugin ## Measures Ferrule beside its peers (BENCH='--help' lists the options; docs/performance.md)
	tests/setup --bench
	$(STATIC) --package ferrule-floor
	$(CARGO) build --locked --release --package ferrule-bench
	tests/in-namespace $(TARGET)/release/ferrule-bench --bin-dir $(TARGET)/release --plugin $(PLUGIN) $(BENCH)

.PHONY: style
style:
	$(CARGO) fmt --all --check
	$(CARGO) fmt --manifest-path fuzz/Cargo.toml --check
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings
	$(CARGO) test --locked --quiet --package ferrule-rooms

.PHONY: lint
lint: style deny ## Format, clippy without warnings, what the rooms import, and what the dependencies may be

.PHONY: deny
deny: ## Licences, bans and sources of the dependencies (deny.toml)
	@$(CARGO) deny --version >/dev/null 2>&1 || \
	    { echo 'make deny: cargo-deny is missing; type: cargo install --locked cargo-deny' >&2; exit 1; }
	$(CARGO) deny --workspace --locked check bans licenses sources

.PHONY: fmt
fmt: ## Formats the sources
	$(CARGO) fmt --all
	$(CARGO) fmt --manifest-path fuzz/Cargo.toml

.PHONY: clean
clean: ## Removes what was built
	$(CARGO) clean

# What is replaced while it may be running or read is replaced by rename.
define replace
install -D -m $(1) $(2) $(3).new && mv -f $(3).new $(3)
endef

# Configuration that may have been edited is left as it is.
define keep
test -e $(2) || install -D -m 0644 $(1) $(2)
endef

.PHONY: install
install: ## Installs what `make build` made; the network's configuration list comes last
	@test -x $(TARGET)/release/routed -a -x $(TARGET)/release/ipamd -a -x $(PLUGIN) || \
	    { echo 'make install: nothing to install yet; type `make build` first, as an ordinary user' >&2; exit 1; }
	$(call replace,0755,$(TARGET)/release/ipamd,$(BINDIR)/ipamd)
	$(call replace,0755,$(TARGET)/release/routed,$(BINDIR)/routed)
	$(call replace,0755,$(PLUGIN),$(DESTDIR)$(CNIBINDIR)/ferrule)
	ln -sfn ferrule $(DESTDIR)$(CNIBINDIR)/ferrule-ipam
	$(call keep,conf/ferrule.toml,$(ETCDIR)/ferrule/ferrule.toml)
	install -D -m 0644 conf/nodes.toml $(DOCDIR)/nodes.toml
	install -D -m 0644 conf/services.toml $(DOCDIR)/services.toml
	install -D -m 0644 conf/systemd/metrics.conf $(DOCDIR)/metrics.conf
	install -D -m 0644 conf/systemd/kubernetes.conf $(DOCDIR)/kubernetes.conf
	install -D -m 0644 conf/sysusers.d/ferrule.conf $(LIBDIR)/sysusers.d/ferrule.conf
	install -D -m 0644 conf/iproute2/ferrule.conf $(ETCDIR)/iproute2/rt_protos.d/ferrule.conf
	install -D -m 0644 conf/systemd/networkd.conf.d/10-ferrule.conf $(LIBDIR)/systemd/networkd.conf.d/10-ferrule.conf
	install -D -m 0644 conf/systemd/network/00-ferrule.network $(LIBDIR)/systemd/network/00-ferrule.network
	install -D -m 0644 conf/systemd/network/00-ferrule.link $(LIBDIR)/systemd/network/00-ferrule.link
	install -D -m 0644 conf/NetworkManager/conf.d/10-ferrule.conf $(LIBDIR)/NetworkManager/conf.d/10-ferrule.conf
	install -D -m 0644 conf/avahi/ferrule.conf $(DOCDIR)/avahi-daemon.conf
	install -D -m 0644 conf/connman/ferrule.conf $(DOCDIR)/connman.conf
	install -D -m 0644 conf/dhcpcd/ferrule.conf $(DOCDIR)/dhcpcd.conf
	install -D -m 0644 conf/ifupdown/ferrule.conf $(DOCDIR)/interfaces
	install -d $(LIBDIR)/systemd/system
	sed 's,=/usr/local/bin/,=$(PREFIX)/bin/,' conf/systemd/ipamd.service >$(LIBDIR)/systemd/system/ipamd.service
	install -m 0644 conf/systemd/ipamd.socket $(LIBDIR)/systemd/system/ipamd.socket
	sed 's,=/usr/local/bin/,=$(PREFIX)/bin/,' conf/systemd/routed.service >$(LIBDIR)/systemd/system/routed.service
	sed 's,=/usr/local/bin/,=$(PREFIX)/bin/,' conf/systemd/proxyd.service >$(LIBDIR)/systemd/system/proxyd.service
	$(call replace,0644,conf/10-ferrule.conflist,$(DESTDIR)$(CNICONFDIR)/10-ferrule.conflist)
	@test -n '$(DESTDIR)' || printf '%s\n' 'Next (docs/operations.md): write $(SYSCONFDIR)/ferrule/nodes.toml, then type' \
	    '  systemd-sysusers && systemctl daemon-reload && systemctl enable --now ipamd routed'

.PHONY: uninstall
uninstall: ## Removes what `make install` installed, except $(SYSCONFDIR)/ferrule
	rm -f $(DESTDIR)$(CNICONFDIR)/10-ferrule.conflist $(addprefix $(DESTDIR)$(CNIBINDIR)/,ferrule ferrule-ipam)
	rm -f $(BINDIR)/ipamd $(BINDIR)/routed $(BINDIR)/proxyd
	rm -f $(addprefix $(LIBDIR)/systemd/system/,ipamd.service ipamd.socket routed.service proxyd.service)
	rm -f $(LIBDIR)/systemd/networkd.conf.d/10-ferrule.conf $(LIBDIR)/sysusers.d/ferrule.conf
	rm -f $(LIBDIR)/systemd/network/00-ferrule.network $(LIBDIR)/systemd/network/00-ferrule.link
	rm -f $(LIBDIR)/NetworkManager/conf.d/10-ferrule.conf
	rm -f $(addprefix $(DOCDIR)/,avahi-daemon.conf connman.conf dhcpcd.conf interfaces)
	rm -f $(ETCDIR)/iproute2/rt_protos.d/ferrule.conf
	rm -f $(addprefix $(DOCDIR)/,nodes.toml services.toml metrics.conf kubernetes.conf)
