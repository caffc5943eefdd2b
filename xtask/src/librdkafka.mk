# Read by make before librdkafka's own Makefile, when `cargo xtask demo` builds it: the C library alone, not optimized.
# librdkafka's configure script has no working option for either, and takes three times as long without this file.
override CFLAGS += -O0 -g0
override LIBSUBDIRS := src
