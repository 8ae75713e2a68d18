#!/usr/bin/env bash
# Runs the tests with other versions of PyTorch: by default the oldest that setup.cfg allows and the newest that was tried.
#
#   bash tests/matrix.sh                              # 2.6.0 and 2.15.0, each in an environment of its own under .matrix/
#   bash tests/matrix.sh "2.9.1 0.24.1" -- -k stems   # this pair of torch and torchvision, with options of pytest
#   PYTHON=python3.14 bash tests/matrix.sh "2.15.0 0.29.2"   # with another Python
set -euo pipefail
cd "$(dirname "$0")/.."
pairs=()
while [ $# -gt 0 ] && [ "$1" != -- ]; do pairs+=("$1"); shift; done
[ $# -gt 0 ] && shift
[ ${#pairs[@]} -gt 0 ] || pairs=("2.6.0 0.21.0" "2.15.0 0.29.2")
status=0
version=$("${PYTHON:-python3}" -c 'import sys; print("{}.{}".format(*sys.version_info))')
for pair in "${pairs[@]}"; do
  read -r torch vision <<<"$pair"
  venv=.matrix/python-$version-torch-$torch
  if [ ! -f "$venv/ready" ]; then
    "${PYTHON:-python3}" -m venv "$venv"
    # SpikingJelly imports torchaudio, which loads with a torch of its own version or a newer one.
    "$venv/bin/python" -m pip install -q "torch==$torch" "torchvision==$vision" "torchaudio<=$torch" "setuptools<82"
    printf 'torch==%s\ntorchvision==%s\ntorchaudio<=%s\n' "$torch" "$vision" "$torch" > "$venv/constraints.txt"
    "$venv/bin/python" -m pip install -q -c "$venv/constraints.txt" -e ".[openmmlab,dev]"
    "$venv/bin/python" -m pip uninstall -q -y opencv-python
    "$venv/bin/python" -m pip install -q --force-reinstall --no-deps "opencv-python-headless<4.13"
    touch "$venv/ready"
  fi
  echo "Python $version, torch $torch, torchvision $vision"
  # Other versions have other warnings; they are errors with the versions that `make test` installs.
  "$venv/bin/python" -m pytest -q -W default -n auto --dist worksteal "$@" || status=1
done
exit $status
