# SPDX-License-Identifier: Apache-2.0
"""Headless Chromium, by the W3C's WebDriver protocol."""

from __future__ import annotations

import base64
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

_PATIENCE_S = 30
_ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # the key that the standard gives elements
_ARGUMENTS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"),
    *("--disable-quic", "--disable-background-networking", "--disable-component-update"),
    *("--disable-sync", "--disable-extensions", "--window-size=900,900"),
]


class Page:
    """One window of a browser. Elements are named by CSS selectors."""

    def __init__(self, http: httpx.Client, session: str) -> None:
        self._http = http
        self._session = session

    def open(self, url: str) -> None:
        self._call("POST", "url", {"url": url})

    @property
    def url(self) -> str:
        return str(self._call("GET", "url"))

    @property
    def title(self) -> str:
        return str(self._call("GET", "title"))

    @property
    def text(self) -> str:
        return self.text_of("body")

    def has(self, selector: str) -> bool:
        query = {"using": "css selector", "value": selector}
        return bool(self._call("POST", "elements", query))

    def text_of(self, selector: str) -> str:
        return str(self._call("GET", f"element/{self._find(selector)}/text"))

    def value_of(self, selector: str) -> str:
        return str(self._call("GET", f"element/{self._find(selector)}/property/value"))

    def role_of(self, selector: str) -> tuple[str, str]:
        """The role and the name by which assistive software knows an element."""
        element = self._find(selector)
        role = self._call("GET", f"element/{element}/computedrole")
        return str(role), str(self._call("GET", f"element/{element}/computedlabel"))

    def fill(self, selector: str, text: str) -> None:
        element = self._find(selector)
        self._call("POST", f"element/{element}/clear", {})
        self._call("POST", f"element/{element}/value", {"text": text})

    def click(self, selector: str) -> None:
        """Click on what leads to another page, and wait until this one is gone."""
        element = self._find(selector)
        self._call("POST", f"element/{element}/click", {})
        deadline = time.monotonic() + _PATIENCE_S
        while not self._is_gone(element):
            assert time.monotonic() < deadline, f"{selector} led nowhere"
            time.sleep(0.05)

    def cookies(self) -> dict[str, dict[str, Any]]:
        return {cookie["name"]: cookie for cookie in self._call("GET", "cookie")}

    def forget(self) -> None:
        """Delete the cookies of the site shown."""
        self._call("DELETE", "cookie")

    def screenshot(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self._call("GET", "screenshot")))

    def _is_gone(self, element: str) -> bool:
        answer = self._http.get(f"/session/{self._session}/element/{element}/enabled")
        return answer.status_code == 404

    def _find(self, selector: str) -> str:
        query = {"using": "css selector", "value": selector}
        return str(self._call("POST", "element", query)[_ELEMENT])

    def _call(self, method: str, path: str, body: Any = None) -> Any:
        answer = self._http.request(method, f"/session/{self._session}/{path}", json=body)
        document = answer.json()["value"]
        assert answer.status_code == 200, document["message"]
        return document


@contextmanager
def chromium(profile: Path) -> Iterator[Page]:
    """A browser with an empty profile, without scripts: pages must do without."""
    options = {
        "args": [*_ARGUMENTS, f"--user-data-dir={profile}"],
        "prefs": {"profile.managed_default_content_settings.javascript": 2},
    }
    driver = subprocess.Popen(["chromedriver", "--port=0"], stdout=subprocess.PIPE, text=True)
    assert driver.stdout is not None
    try:
        started = next(line for line in driver.stdout if "started successfully on port" in line)
        port = started.rstrip().rstrip(".").rpartition(" ")[2]
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=_PATIENCE_S) as http:
            wanted = {"capabilities": {"alwaysMatch": {"goog:chromeOptions": options}}}
            answer = http.post("/session", json=wanted).json()["value"]
            assert "sessionId" in answer, answer
            yield Page(http, answer["sessionId"])
            http.delete(f"/session/{answer['sessionId']}")
    finally:
        driver.terminate()
        driver.wait(20)
        driver.stdout.close()
