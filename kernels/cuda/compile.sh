#!/bin/sh
# Compiles a .cu file by the command line that follows. What ptxas says of its kernels stays beside the object, in
# OBJECT.ptxas, where tests/spills.lua reads it; a cache of compilers says it again.
object= previous=
for word; do
  [ "$previous" != -o ] || object=$word
  previous=$word
done
status=0
"$@" 2>"$object.ptxas" || status=$?
sed '/^ptxas info/d; / bytes stack frame, /d' "$object.ptxas" >&2
exit "$status"
