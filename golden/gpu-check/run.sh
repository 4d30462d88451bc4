#!/bin/sh
# Checks and times the GPU of this machine; arguments go to `gpu-check run`. Needs the driver and nothing else.
cd "$(dirname "$0")" || exit 1
tar xzf contents.tar.gz || exit 1
export DREAM_FIXTURES="$PWD/contents/fixtures" DREAM_TOOLCHAIN="$PWD/contents/toolchain"
exec ./contents/gpu-check run "$@"
