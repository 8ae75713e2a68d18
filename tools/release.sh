#!/usr/bin/env bash
# Builds a release into dist/: source distribution, wheel (installed and tried in a fresh environment), checksums, notes.
#
#   bash tools/release.sh
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
version=$(sed -n 's/^__version__ = "\(.*\)"/\1/p' sterf_plugins/__init__.py)
grep -q "^version: $version$" CITATION.cff || { echo "CITATION.cff has another version than sterf_plugins/__init__.py ($version)" >&2; exit 2; }
grep -q "^## \[\?$version\]\?" CHANGELOG.md || { echo "CHANGELOG.md has no section \"## $version\"; give \"Unreleased\" its version and date" >&2; exit 2; }
[ -z "$(git status --porcelain)" ] || { echo "the work tree has changes that are not committed" >&2; exit 2; }
[ ! -e dist ] || { echo "dist/ is there already; move it away" >&2; exit 2; }
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"$python" -m venv "$folder/build"
"$folder/build/bin/python" -m pip install -q build
"$folder/build/bin/python" -m build --outdir dist .
"$python" -m venv "$folder/try"
"$folder/try/bin/python" -m pip install -q "$(echo dist/*.whl)[openmmlab]"
(cd "$folder" && "$folder/try/bin/sterf" doctor)
(cd dist && sha256sum ./* > SHA256SUMS)
awk -v v="$version" '/^## /{inside = index($0, v) > 0} inside' CHANGELOG.md > dist/NOTES.md
echo "dist/ has:"
ls dist
