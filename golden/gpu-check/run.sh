#!/bin/sh
# Checks and times the GPU of this machine; arguments go to `gpu-check run`. Needs the driver and nothing else.
cd "$(dirname "$0")" || exit 1
export DREAM_FIXTURES="$PWD/fixtures" DREAM_TOOLCHAIN="$PWD/toolchain"
exec ./gpu-check run "$@"
