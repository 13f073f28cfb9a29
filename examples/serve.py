"""A model behind HTTP: an image in, its label map back. It needs nothing but segflow.

    python examples/serve.py outputs/Dataset042_Liver/nnUNetPlans/3d_fullres/default --port 8000
    curl --fail-with-body --data-binary @ct.nii.gz http://127.0.0.1:8000/ > label.nii.gz

One image with one channel per request. Requests are answered one after another, since one fills the machine. It listens
on this machine only: put your own proxy with login and encryption in front. A research tool, not a medical device.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import SimpleITK as sitk

from segflow import Predictor
from segflow.core.errors import SegflowError

LARGEST = 2**30
"""Bytes of the largest image that is taken."""


class Service(HTTPServer):
    """Holds the model, which is loaded once.

    Args:
        model: Run, fold or bundle.
        port: Port on this machine; 0 takes a free one.
    """

    def __init__(self, model: Path, port: int) -> None:
        self.predictor = Predictor.load(model)
        super().__init__(("127.0.0.1", port), Answer)


class Answer(BaseHTTPRequestHandler):
    """Answers one request."""

    server: Service
    timeout = 60

    def do_GET(self) -> None:
        """Say which labels the model knows."""
        self._answer(200, json.dumps(self.server.predictor.labels.to_json()).encode(), "application/json")

    def do_POST(self) -> None:
        """Predict the image in the request's body, as .nii.gz."""
        try:
            label_map = self._predict()
        except (SegflowError, RuntimeError) as error:  # RuntimeError: SimpleITK cannot read it
            self._answer(422, json.dumps({"error": str(error)}).encode(), "application/json")
        else:
            self._answer(200, label_map, "application/gzip")

    def _predict(self) -> bytes:
        stated = self.headers.get("Content-Length", "")
        length = int(stated) if stated.isdecimal() else 0
        if not 0 < length <= LARGEST:
            raise SegflowError("the request holds no image, or too large a one", found=f"{length} bytes")
        with tempfile.TemporaryDirectory() as folder:
            image, label = Path(folder, "image.nii.gz"), Path(folder, "label.nii.gz")
            image.write_bytes(self.rfile.read(length))
            sitk.WriteImage(self.server.predictor.predict(sitk.ReadImage(image)), label)
            return label.read_bytes()

    def _answer(self, status: int, body: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def main() -> None:
    """Serve until Ctrl-C."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--port", type=int, default=8000)
    arguments = parser.parse_args()
    with Service(arguments.model, arguments.port) as service:
        print(f"http://127.0.0.1:{service.server_port}/", flush=True)
        service.serve_forever()


if __name__ == "__main__":
    main()
