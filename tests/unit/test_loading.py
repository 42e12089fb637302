"""What a command loads: one that reads the ledger waits for no web server, and for no client of a switch."""

import json
import subprocess
import sys
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]

# Runs a command as its entry point does, then puts the server together; says after each what was loaded.
LOADED = """
import json, sys
from fairdial.main import command_line
sys.argv = ["fairdial", *sys.argv[1:]]
try:
    command_line()
except SystemExit as ended:
    status = ended.code
named = lambda: sorted({name.partition(".")[0] for name in sys.modules})
by_command = named()
import fairdial.serving
print(json.dumps({"status": status, "command": by_command, "serving": named()}), file=sys.stderr)
"""

SERVER = {
    "fastapi",
    "starlette",
    "uvicorn",
    "aiohttp",
    "aiosmtplib",
    "prometheus_client",
    "agi_app",
    "ari_handlers",
}


def test_a_reading_command_loads_no_server_and_serving_does(tmp_path: Path) -> None:
    (tmp_path / "fairdial.toml").write_text(
        f'policies = "{PROJECT / "policies"}"\nstore.path = "ledger.sqlite"\n'
    )
    ended = subprocess.run(
        [sys.executable, "-c", LOADED, "--config", "fairdial.toml", "account", "list", "--json"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert json.loads(ended.stdout) == []
    loaded = json.loads(ended.stderr)
    assert loaded["status"] == 0
    assert SERVER & set(loaded["command"]) == set()
    assert set(loaded["serving"]) >= SERVER
