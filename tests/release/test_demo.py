"""The page in a real browser with a real upload, and what the server refuses."""

import contextlib
import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import warm
from cxrbase.data.decode import decode
from cxrbase.data.phantom import make_phantom
from cxrbase.errors import ConfigError
from cxrbase.release.demo.neighbours import Neighbours
from cxrbase.release.embed import embed
from cxrbase.release.feature_warnings import UNLIKE
from fine_tuned import CLASSES, make_model, smooth
from waiting import until

pytest.importorskip("fastapi")


@pytest.fixture(scope="module")
def phantom(tmp_path_factory):
    root = tmp_path_factory.mktemp("phantom")
    make_phantom(root, patients=6, image_size=160, seed=0, workers=1)
    return sorted((root / "images").iterdir())


@contextlib.contextmanager
def serving(root, *words):
    """A running `cxrbase demo`; its port and its temporary folder."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (root / "tmp").mkdir()
    job = warm.Process(
        ["-m", "cxrbase", "demo", *words, "--port", str(port)],
        env={**os.environ, "TMPDIR": str(root / "tmp")},
        stdout=subprocess.DEVNULL,
    )

    def answers():
        with socket.socket() as asked:
            return asked.connect_ex(("127.0.0.1", port)) == 0

    until(answers, job)
    yield port, root / "tmp"
    job.send_signal(signal.SIGTERM)
    job.wait(20)


@pytest.fixture(scope="module")
def server(encoder_folder, phantom, tmp_path_factory):
    """An encoder with a table of features."""
    root = tmp_path_factory.mktemp("demo")
    embed(str(encoder_folder), [str(path) for path in phantom], out=root / "features.parquet")
    features = str(root / "features.parquet")
    with serving(root, "--model", str(encoder_folder), "--features", features, "--max_mb", "1") as found:
        yield found


@pytest.fixture(scope="module")
def model_server(encoder_folder, tmp_path_factory):
    """A fine-tuned model."""
    root = tmp_path_factory.mktemp("model")
    with serving(root, "--model", str(make_model(encoder_folder, root / "model"))) as found:
        yield found


@contextlib.contextmanager
def browsing(port):
    """The page in a Chromium, and what went wrong in it and whom it asked."""
    playwright = pytest.importorskip("playwright.sync_api")
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("chromium is not installed")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1100, "height": 900})
        problems, hosts = [], set()
        page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
        page.on("request", lambda request: hosts.add(re.sub(r"^(data):.*|^https?://([^/]+).*", r"\1\2", request.url)))
        page.goto(f"http://127.0.0.1:{port}/")
        yield page, problems, hosts
        browser.close()


def ask(port, method="GET", path="/", body=None, **headers):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
    answer = connection.getresponse()
    return answer.status, answer.read(), dict(answer.getheaders())


def test_a_radiograph_is_analysed_and_nothing_is_kept(server, phantom):
    port, temporary = server
    for path in (next(p for p in phantom if p.suffix == suffix) for suffix in (".dcm", ".png", ".jpg")):
        status, body, headers = ask(port, "POST", "/analyse", path.read_bytes())
        assert status == 200
        found = json.loads(body)
        assert found["neighbours"][0] == {"name": path.name, "similarity": pytest.approx(1, abs=1e-5)}
        assert found["probabilities"] == []
        assert found["input"].startswith("data:image/png;base64,")
        assert headers["cache-control"] == "no-store"
    assert list(temporary.iterdir()) == []


def test_what_is_no_image_or_too_large_is_refused(server):
    port, temporary = server
    status, body, _ = ask(port, "POST", "/analyse", b"#!/bin/sh\necho hello\n")
    assert status == 422
    assert "image" in json.loads(body)["detail"]
    assert str(temporary) not in body.decode()
    assert ask(port, "POST", "/analyse", b"")[0] == 422
    assert ask(port, "GET", "/../../etc/passwd")[0] == 404
    assert ask(port, "GET", "/docs")[0] == 404
    assert list(temporary.iterdir()) == []


def test_only_the_page_itself_may_ask(server):
    port, _ = server
    assert ask(port, Host="evil.example")[0] == 403
    assert ask(port, "POST", "/analyse", b"x", Origin="https://evil.example")[0] == 403
    assert ask(port, Host=f"localhost:{port}")[0] == 200
    policy = ask(port)[2]["content-security-policy"]
    assert "default-src 'none'" in policy


def test_the_server_listens_on_loopback_only(server):
    port, _ = server
    lines = Path("/proc/net/tcp").read_text().splitlines() if Path("/proc/net/tcp").is_file() else []
    local = [line.split()[1] for line in lines[1:] if line.split()[3] == "0A"]
    assert [address for address in local if address.endswith(f":{port:04X}")] == [f"0100007F:{port:04X}"]


def test_a_large_upload_is_stopped(server):
    port, _ = server
    status, body, _ = ask(port, "POST", "/analyse", b"x" * 1_000_001)
    assert status == 413
    assert "larger than 1 MB" in json.loads(body)["detail"]
    assert ask(port, "POST", "/analyse", b"x" * 1_000_000)[0] == 422  # read, and no image


def test_features_of_another_encoder_are_refused(phantom, encoder_folder, tmp_path):
    embed(str(encoder_folder), [str(phantom[0])], out=tmp_path / "e.parquet")
    with pytest.raises(ConfigError, match="another encoder"):
        Neighbours(tmp_path / "e.parquet", weights_sha256="0")
    (tmp_path / "x.parquet").write_bytes(b"no")
    with pytest.raises(ConfigError, match="not a table"):
        Neighbours(tmp_path / "x.parquet", weights_sha256="0")


def test_the_page_in_a_browser(server, phantom, tmp_path):
    port, _ = server
    (tmp_path / "note.txt").write_text("no image")
    with browsing(port) as (page, problems, hosts):
        radiograph = next(p for p in phantom if p.suffix == ".dcm")
        page.set_input_files("#file", radiograph)
        page.wait_for_selector("#result:not([hidden])", timeout=60_000)
        assert page.locator("#neighbours tr").count() == 5
        assert page.evaluate("document.getElementById('map').naturalWidth") == decode(radiograph).shape[1]
        assert page.locator("#chances").is_hidden()
        assert problems == []
        assert hosts <= {f"127.0.0.1:{port}", "data"}
        picture = Path(os.environ.get("CXRBASE_SCREENSHOT", tmp_path / "page.png"))
        page.screenshot(path=picture, full_page=True)
        assert np.asarray(Image.open(picture)).std() > 10
        page.set_input_files("#file", tmp_path / "note.txt")
        page.wait_for_selector("#said.error", timeout=60_000)
        assert "note.txt was not read" in page.inner_text("#said")


def test_the_page_says_what_was_not_learnt(encoder_folder, tmp_path):
    folder = make_model(encoder_folder, tmp_path / "model")
    card = json.loads((folder / "model.json").read_text()) | {"learnt": ["effusion"]}
    (folder / "model.json").write_text(json.dumps(card))
    Image.fromarray(smooth(3)).save(tmp_path / "smooth.png")
    with serving(tmp_path, "--model", str(folder)) as (port, _), browsing(port) as (page, problems, _):
        page.set_input_files("#file", tmp_path / "smooth.png")
        (effusion, nodule) = chances(page)
        assert effusion[1].endswith(" %")
        assert nodule == ["nodule", "not learnt"]
        assert problems == []


def chances(page):
    """The table of probabilities as the page shows it."""
    page.wait_for_selector("#result:not([hidden])", timeout=60_000)
    return [[cell.inner_text() for cell in row.locator("td").all()] for row in page.locator("#probabilities tr").all()]


def test_the_page_of_a_model_shows_probabilities_and_warnings_and_takes_a_dropped_file(model_server, tmp_path):
    port, temporary = model_server
    Image.fromarray(smooth(3)).save(tmp_path / "smooth.png")
    noise = np.random.default_rng(0).integers(0, 256, (140, 140), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    wanted = {
        name: [
            [row["finding"], f"{100 * row['value']:.1f} %"]
            for row in json.loads(ask(port, "POST", "/analyse", (tmp_path / name).read_bytes())[1])["probabilities"]
        ]
        for name in ("smooth.png", "noise.png")
    }
    assert wanted["smooth.png"] != wanted["noise.png"]
    with browsing(port) as (page, problems, _):
        page.set_input_files("#file", tmp_path / "smooth.png")
        assert chances(page) == wanted["smooth.png"]
        assert [name for name, _ in wanted["smooth.png"]] == CLASSES
        assert page.locator("#chances").is_visible()
        assert page.locator("#alike").is_hidden()
        assert page.inner_text("#explained") in CLASSES
        assert UNLIKE not in page.inner_text("#said")
        file = page.evaluate_handle(
            """bytes => {
                const held = new DataTransfer();
                held.items.add(new File([new Uint8Array(bytes)], "noise.png"));
                return held;
            }""",
            list((tmp_path / "noise.png").read_bytes()),
        )
        page.dispatch_event("#drop", "dragover", {"dataTransfer": file})
        assert page.locator("#drop.over").count() == 1
        page.dispatch_event("#drop", "drop", {"dataTransfer": file})
        page.wait_for_selector(f"#said:has-text('{UNLIKE}')", timeout=60_000)
        assert page.inner_text("#said").startswith("Look at the image: ")
        assert chances(page) == wanted["noise.png"]
        assert page.locator("#drop.over").count() == 0
        assert problems == []
    assert list(temporary.iterdir()) == []
