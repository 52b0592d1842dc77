"""Starts a real ComfyUI and talks to it, with the standard library alone (the bootstrap uses it before anything is installed)."""

from __future__ import annotations

import base64
import json
import os
import shutil
import socket
import struct
import subprocess
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

FLAGS = ["--disable-auto-launch", "--database-url", "sqlite:///:memory:"]
ENDINGS = {"execution_success": "success", "execution_error": "error", "execution_interrupted": "interrupted"}


class ServerError(RuntimeError):
    """The server did not start, or refused a prompt; the message says what to do."""


def free_port() -> int:
    """A port nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def link_pack(source: Path, custom_nodes: Path, name: str) -> None:
    """Puts the pack into custom_nodes: a link, or a fresh copy where links are not allowed (Windows without developer mode)."""
    custom_nodes.mkdir(parents=True, exist_ok=True)
    target = custom_nodes / name
    if target.is_symlink():
        if target.resolve() == source.resolve():
            return
        target.unlink()
    try:
        target.symlink_to(source.resolve(), target_is_directory=True)
    except OSError:
        kept_out = shutil.ignore_patterns(".*", "__pycache__", "demo", "artifacts")
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(source, target, ignore=kept_out)


@dataclass
class Run:
    """What became of one prompt.

    status is "success", "error" or "interrupted"; `executed` and `cached` are node ids, `previews` (node id, JPEG bytes),
    `progress` (node id, step, total), `outputs` each output node's ui, `error` the execution_error message.
    """

    prompt_id: str
    status: str = ""
    executed: list[str] = field(default_factory=list)
    cached: list[str] = field(default_factory=list)
    previews: list[tuple[str, bytes]] = field(default_factory=list)
    progress: list[tuple[str, int, int]] = field(default_factory=list)
    outputs: dict[str, dict[str, Any]] = field(default_factory=dict)
    error: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0

    def files(self, suffix: str = "") -> list[dict[str, str]]:
        """The files all output nodes wrote, in order, those with this suffix."""
        entries = [e for ui in self.outputs.values() for rows in ui.values() if isinstance(rows, list) for e in rows]
        found = [e for e in entries if isinstance(e, dict) and e.get("filename")]
        return [e for e in found if str(e["filename"]).endswith(suffix)]


class Socket:
    """The few pages of RFC 6455 a listening client needs."""

    def __init__(self, port: int, path: str, timeout: float) -> None:
        self.connection = socket.create_connection(("127.0.0.1", port), timeout=timeout)
        key = base64.b64encode(os.urandom(16)).decode()
        request = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        self.connection.sendall(f"{request}Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode())
        self.stream = self.connection.makefile("rb")
        status = self.stream.readline().decode()
        if " 101 " not in status:
            raise ServerError(f"The server refused a websocket: {status.strip()}")
        while self.stream.readline().strip():
            pass

    def send(self, text: str, opcode: int = 1) -> None:
        """One masked frame, as clients must."""
        data, mask = text.encode(), os.urandom(4)
        size = bytes([0x80 | len(data)]) if len(data) < 126 else struct.pack(">BH", 0x80 | 126, len(data))
        self.connection.sendall(bytes([0x80 | opcode]) + size + mask + bytes(b ^ mask[i % 4] for i, b in enumerate(data)))

    def _exactly(self, count: int) -> bytes:
        try:
            data = self.stream.read(count)
        except TimeoutError as error:
            raise ServerError("The server has said nothing for a long time; its log may say why.") from error
        if len(data) < count:
            raise ServerError("The server closed the connection; its log says why.")
        return data

    def receive(self) -> str | bytes:
        """The next message: text or binary."""
        message, kind = b"", 0
        while True:
            first, second = self._exactly(2)
            length = second & 0x7F
            if length > 125:
                length = int.from_bytes(self._exactly(2 if length == 126 else 8), "big")
            data, opcode = self._exactly(length), first & 0x0F
            if opcode == 8:
                raise ServerError("The server closed the connection; its log says why.")
            if opcode == 9:
                self.send(data.decode("latin-1"), opcode=10)
            if opcode > 2:
                continue
            kind = opcode or kind
            message += data
            if first & 0x80:
                return message.decode() if kind == 1 else message

    def close(self) -> None:
        """Hangs up."""
        self.stream.close()
        self.connection.close()


class Server:
    """A ComfyUI process with its own base directory; use it in a `with`."""

    def __init__(
        self,
        python: str | Path,
        comfyui: Path,
        base: Path,
        log: Path,
        flags: list[str] | None = None,
        port: int = 0,
        environment: dict[str, str] | None = None,
    ) -> None:
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.base, self.log = base, log
        (base / "custom_nodes").mkdir(parents=True, exist_ok=True)
        log.parent.mkdir(parents=True, exist_ok=True)
        places = ["--port", str(self.port), "--base-directory", str(base)]
        command = [str(python), "-u", str(comfyui / "main.py"), *places, *FLAGS, *(flags or [])]
        with open(log, "w", encoding="utf-8") as out:
            surroundings = {**os.environ, **(environment or {})}
            streams: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": out, "stderr": subprocess.STDOUT}
            self.process = subprocess.Popen(command, cwd=comfyui, env=surroundings, **streams)

    def __enter__(self) -> Server:
        try:
            self.wait_until_up()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def wait_until_up(self, timeout: float = 180) -> None:
        """Returns when the server answers; raises ServerError with the log's end if it does not."""
        end = time.monotonic() + timeout
        while time.monotonic() < end and self.process.poll() is None:
            try:
                self.get("/system_stats")
                return
            except (OSError, ServerError):
                time.sleep(0.2)
        tail = "\n".join(self.log_text().splitlines()[-15:])
        raise ServerError(f"ComfyUI did not start; the end of {self.log}:\n{tail}")

    def log_text(self) -> str:
        """Everything the server has printed."""
        return self.log.read_text(encoding="utf-8", errors="replace")

    def stop(self) -> None:
        """Ends the process."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    # ---- requests

    def request(self, path: str, data: bytes | None = None, content_type: str = "application/json") -> tuple[int, bytes]:
        """Status and body of GET, or of POST where there is data."""
        request = urllib.request.Request(self.url + path, data=data, headers={"Content-Type": content_type})
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # a proxy cannot reach this machine's own port
        try:
            with opener.open(request, timeout=60) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()

    def get(self, path: str) -> Any:
        """The JSON at this path."""
        status, body = self.request(path)
        if status != 200:
            raise ServerError(f"GET {path} answered {status}.")
        return json.loads(body)

    def post(self, path: str, data: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """Status and JSON answer."""
        status, body = self.request(path, json.dumps(data).encode())
        return status, json.loads(body) if body.strip() else {}

    def upload(self, path: Path) -> str:
        """Puts a picture into the input folder; its name there."""
        edge = uuid.uuid4().hex
        head = f'--{edge}\r\nContent-Disposition: form-data; name="image"; filename="{path.name}"\r\nContent-Type: image/png\r\n\r\n'
        tail = f'\r\n--{edge}\r\nContent-Disposition: form-data; name="overwrite"\r\n\r\ntrue\r\n--{edge}--\r\n'
        body = head.encode() + path.read_bytes() + tail.encode()
        status, answer = self.request("/upload/image", body, f"multipart/form-data; boundary={edge}")
        if status != 200:
            raise ServerError(f"The server did not take {path.name}: {status}.")
        return str(json.loads(answer)["name"])

    def file(self, entry: dict[str, str]) -> Path:
        """Where an output entry ({filename, subfolder, type}) lies."""
        return self.base / entry.get("type", "output") / entry.get("subfolder", "") / entry["filename"]

    def interrupt(self) -> None:
        """Cancel, as the page's button does."""
        self.request("/interrupt", b"{}")

    def run(self, prompt: dict[str, Any], watch: Callable[[Run, str, dict[str, Any]], None] | None = None, timeout: float = 600) -> Run:
        """Runs an API prompt to its end. `watch(run, event, data)` sees each message as it comes and may interrupt.

        Raises:
            ServerError: the prompt was refused in whole or in part, or took longer than `timeout` seconds.
        """
        client = uuid.uuid4().hex
        listener = Socket(self.port, f"/ws?clientId={client}", timeout)
        try:
            listener.send(json.dumps({"type": "feature_flags", "data": {"supports_preview_metadata": True}}))
            status, answer = self.post("/prompt", {"prompt": prompt, "client_id": client})
            if status != 200 or answer.get("node_errors"):
                raise ServerError(f"The server refused the prompt ({status}): {json.dumps(answer)[:2000]}")
            run, start = Run(answer["prompt_id"]), time.monotonic()
            while not run.status:
                if time.monotonic() - start > timeout:
                    raise ServerError(f"The prompt took longer than {timeout:.0f} s.")
                event, data = self._event(run, listener.receive())
                if watch is not None and event:
                    watch(run, event, data)
            run.seconds = time.monotonic() - start
        finally:
            listener.close()
        run.outputs = self._history(run.prompt_id).get("outputs", {})
        return run

    def _event(self, run: Run, message: str | bytes) -> tuple[str, dict[str, Any]]:
        if isinstance(message, bytes):
            kind, length = struct.unpack(">II", message[:8])
            if kind != 4:  # only preview pictures with metadata matter here
                return "", {}
            about = json.loads(message[8 : 8 + length])
            run.previews.append((about["node_id"], message[8 + length :]))
            return "preview", about
        parsed = json.loads(message)
        event, data = parsed["type"], parsed["data"]
        if data.get("prompt_id") != run.prompt_id:
            return "", {}
        if event == "executing" and data.get("node"):
            run.executed.append(data["node"])
        elif event == "execution_cached":
            run.cached = list(data["nodes"])
        elif event == "progress":
            run.progress.append((data.get("node") or "", int(data["value"]), int(data["max"])))
        elif event in ENDINGS:
            run.status = ENDINGS[event]
            run.error = data if event == "execution_error" else {}
        return event, data

    def _history(self, prompt_id: str) -> dict[str, Any]:
        for _ in range(100):  # written just after the last message
            history = self.get(f"/history/{prompt_id}")
            if prompt_id in history:
                return dict(history[prompt_id])
            time.sleep(0.05)
        raise ServerError("The server keeps no history of the prompt it just ran.")
