#!/usr/bin/env bash
# The pages in a real browser: installs Chromium where it is missing (Debian, Ubuntu), builds, tests.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}
if ! command -v chromedriver > /dev/null; then
  sudo=$([ "$(id -u)" = 0 ] || echo sudo)
  $sudo apt-get update
  $sudo apt-get install -y --no-install-recommends chromium chromium-driver
fi
"$python" docs/build.py
"$python" -m pytest -q tests/test_docs.py tests/test_docs_browser.py
