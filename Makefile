# ckpt: GNU make, one Makefile for the whole tree. `make` builds the programs into bin/.

VERSION := 0.1
PREFIX ?= /usr/local
DESTDIR ?=
CC ?= gcc

# A second build (sanitizers, fuzzers) lives beside the first: make BUILD=... BIN=...
BUILD ?= .build
BIN ?= bin

CPPFLAGS += -D_GNU_SOURCE -D_FILE_OFFSET_BITS=64 -Ilib
CFLAGS ?= -O2 -g
# -Wsign-conversion (part of -Wconversion in C++ only) stays off: kernel ABIs mix signedness.
WARNINGS := -Wall -Wextra -Wshadow -Wconversion -Wno-sign-conversion -Wstrict-prototypes \
            -Wmissing-prototypes -Wvla -Wformat=2 -Wundef
ifdef CI
WARNINGS += -Werror
endif
SANITIZE :=
ALL_CFLAGS = -std=gnu17 $(CFLAGS) $(WARNINGS) $(SANITIZE) -pthread -fno-strict-aliasing

# Optional libraries: present at build or not, --version tells.
have = $(shell pkg-config --exists $(1) 2>/dev/null && echo yes)
PACKAGES := jansson zlib liblz4
ifeq ($(call have,libisal),yes)
PACKAGES += libisal
CPPFLAGS += -DHAVE_ISAL=1
endif
ifeq ($(call have,libdeflate),yes)
PACKAGES += libdeflate
CPPFLAGS += -DHAVE_LIBDEFLATE=1
endif
ifeq ($(call have,liburing),yes)
PACKAGES += liburing
CPPFLAGS += -DHAVE_LIBURING=1
endif
LDLIBS += $(shell pkg-config --libs $(PACKAGES) 2>/dev/null)

LIB_SOURCES := $(wildcard lib/*/*.c)
LIB_OBJECTS := $(LIB_SOURCES:%.c=$(BUILD)/%.o) $(patsubst %.S,$(BUILD)/%.o,$(wildcard lib/*/*.S))
PROGRAMS := $(patsubst src/%.c,$(BIN)/%,$(wildcard src/*.c))
UNIT_TESTS := $(patsubst tests/%.c,$(BUILD)/tests/%,$(wildcard tests/unit-*.c))
FIXTURES := $(patsubst tests/fixtures/%.c,$(BUILD)/fixtures/%,$(wildcard tests/fixtures/*.c))
FUZZERS := $(patsubst tests/%.c,$(BUILD)/tests/%,$(wildcard tests/fuzz-*.c))
MANUALS := $(wildcard src/*.1)
SHELL_SCRIPTS = $(shell grep -lE '^\#!.*\b(ba)?sh' scripts/* .ci/run 2>/dev/null)

.DELETE_ON_ERROR:
.SECONDARY:
.PHONY: all demo test unit fixtures install sanitize lint format clean bench fuzz setup

all: $(PROGRAMS)

$(BUILD)/libckpt.a: $(LIB_OBJECTS)
	@rm -f $@
	@$(AR) rcs $@ $^

$(BUILD)/%.o: %.c Makefile
	@mkdir -p $(@D)
	@echo "  CC    $<"
	@$(CC) $(CPPFLAGS) -DCKPT_VERSION='"$(VERSION)"' $(ALL_CFLAGS) -MMD -MP -c -o $@ $<

$(BUILD)/%.o: %.S Makefile
	@mkdir -p $(@D)
	@echo "  CC    $<"
	@$(CC) $(CPPFLAGS) $(ALL_CFLAGS) -MMD -MP -c -o $@ $<

$(BIN)/%: $(BUILD)/src/%.o $(BUILD)/libckpt.a
	@mkdir -p $(@D)
	@echo "  LD    $@"
	@$(CC) $(ALL_CFLAGS) $(LDFLAGS) -o $@ $^ $(LDLIBS)

$(BUILD)/tests/%: $(BUILD)/tests/%.o $(BUILD)/libckpt.a
	@mkdir -p $(@D)
	@echo "  LD    $@"
	@$(CC) $(ALL_CFLAGS) $(LDFLAGS) -o $@ $^ $(LDLIBS)

# Fixtures are the programs that get checkpointed: plain, never instrumented.
$(BUILD)/fixtures/%: tests/fixtures/%.c $(wildcard tests/fixtures/*.h) Makefile
	@mkdir -p $(@D)
	@echo "  CC    $<"
	@$(CC) -D_GNU_SOURCE -std=gnu17 -O2 -g $(WARNINGS) -pthread -MMD -MP -o $@ $< -lm

unit: $(UNIT_TESTS)
fixtures: $(FIXTURES)

setup:
	scripts/setup

demo: setup
	+@$(MAKE) --no-print-directory all
	@scripts/demo

test: setup
	+@$(MAKE) --no-print-directory all unit fixtures
	@scripts/test

# make bench BENCH="--size 1024 --rounds 3"
BENCH :=
bench: setup
	+@$(MAKE) --no-print-directory all fixtures
	@scripts/bench --json $(BUILD)/bench.json --svg $(BUILD)/bench.svg $(BENCH)

SANITIZER_FLAGS := -fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer
sanitize: setup
	+@$(MAKE) --no-print-directory BUILD=.build/sanitize BIN=bin/sanitize \
	  SANITIZE="$(SANITIZER_FLAGS)" all unit fixtures

# Coverage-guided fuzzing of everything that reads bytes from outside (clang's libFuzzer).
fuzz:
	+@$(MAKE) --no-print-directory CC=clang BUILD=.build/fuzz BIN=.build/fuzz/bin \
	  SANITIZE="-fsanitize=fuzzer-no-link,address,undefined" LDFLAGS="-fsanitize=fuzzer" fuzzers
.PHONY: fuzzers
fuzzers: $(FUZZERS)

C_FILES = $(wildcard lib/*/*.[ch] src/*.c tests/*.[ch] tests/fixtures/*.[ch])
# cppcheck knows neither the cleanup attribute nor out parameters.
lint:
	clang-format --dry-run --Werror $(C_FILES)
	cppcheck --quiet --std=c11 --error-exitcode=1 --enable=warning,performance,portability \
	  --inline-suppr --suppress=missingIncludeSystem --suppress=memleak --suppress=ctuuninitvar -D_GNU_SOURCE -Ilib lib src
	clang-tidy --quiet --warnings-as-errors='*' $(wildcard lib/*/*.c src/*.c) -- \
	  $(CPPFLAGS) -std=gnu17
	shellcheck $(SHELL_SCRIPTS)

format:
	clang-format -i $(C_FILES)

install: all
	install -d $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(PREFIX)/share/man/man1
	install -m 0755 $(PROGRAMS) $(DESTDIR)$(PREFIX)/bin
	install -m 0644 $(MANUALS) $(DESTDIR)$(PREFIX)/share/man/man1

clean:
	rm -rf .build bin

-include $(shell find $(BUILD) -name '*.d' 2>/dev/null)
