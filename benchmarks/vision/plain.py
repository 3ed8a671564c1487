"""The plain two-service version: a detector service and a recogniser service, crops sent as JPEG.

Written as such services usually are: FastAPI and httpx, Pillow to decode and resize, numpy to normalise,
ONNX Runtime for the networks, rapidocr's own code around them (boxes, crops, decoding), one request a crop,
nothing batched. `python plain.py detect|recognise PORT THREADS WORKERS [SIDE PADDING OTHER_PORT]`. Shares
nothing with trimtab's pipeline but the network files.
"""

from __future__ import annotations

import asyncio
import io
import math
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import onnxruntime as ort
import rapidocr
import uvicorn
from fastapi import FastAPI, Request
from PIL import Image

MODELS = Path(rapidocr.__file__).parent / "models"


def session(name: str, threads: int) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    return ort.InferenceSession(str(MODELS / name), options, providers=["CPUExecutionProvider"])


def run(network: ort.InferenceSession, batch: Any) -> Any:
    return network.run(None, {network.get_inputs()[0].name: batch})[0]


def opened(body: bytes) -> Any:
    """Blue, green, red, as the networks were trained."""
    return np.asarray(Image.open(io.BytesIO(body)).convert("RGB"))[:, :, ::-1]


def resized(image: Any, width: int, height: int) -> Any:
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))


def normalised(image: Any) -> Any:
    return ((image.astype(np.float32) / 255 - 0.5) / 0.5).transpose(2, 0, 1)


class Detector:
    def __init__(self, threads: int, side: int) -> None:
        from rapidocr.ch_ppocr_det.utils import DBPostProcess

        self.side, self.network = side, session("PP-OCRv6_det_small.onnx", threads)
        self.post = DBPostProcess(0.3, 0.5, 1000, 1.6, "fast", True)

    def boxes(self, image: Any) -> Any:
        """Boxes (n, 4, 2), sorted as one reads."""
        from rapidocr.ch_ppocr_det.main import TextDetector

        height, width = image.shape[:2]
        ratio = min(1.0, self.side / max(height, width))
        to = [max(32, round(int(side * ratio) / 32) * 32) for side in (width, height)]
        found = run(self.network, np.ascontiguousarray(normalised(resized(image, *to))[None]))
        boxes, _ = self.post(found, (height, width))
        return TextDetector.sorted_boxes(boxes) if len(boxes) else []

    def crops(self, body: bytes) -> tuple[list[Any], list[bytes]]:
        from rapidocr.utils.process_img import get_rotate_crop_image

        image = opened(body)
        boxes = [np.asarray(box, np.float32) for box in self.boxes(image)]
        encoded = []
        for box in boxes:
            to = io.BytesIO()
            crop = get_rotate_crop_image(np.ascontiguousarray(image), box.copy())
            Image.fromarray(np.ascontiguousarray(crop[:, :, ::-1])).save(to, "JPEG", quality=95)
            encoded.append(to.getvalue())
        return [box.tolist() for box in boxes], encoded


class Recogniser:
    def __init__(self, threads: int, padding: int) -> None:
        from rapidocr.ch_ppocr_rec.utils import CTCLabelDecode

        self.padding = padding
        self.direction = session("ch_ppocr_mobile_v2.0_cls_mobile.onnx", threads)
        self.network = session("PP-OCRv6_rec_small.onnx", threads)
        self.decode = CTCLabelDecode(
            self.network.get_modelmeta().custom_metadata_map["character"].splitlines()
        )

    def read(self, body: bytes) -> tuple[str, float]:
        return self.text(opened(body))

    def text(self, crop: Any) -> tuple[str, float]:
        if run(self.direction, self._batch(crop, 192, 192))[0][1] > 0.9:
            crop = np.ascontiguousarray(crop[::-1, ::-1])
        wide = math.ceil(48 * crop.shape[1] / crop.shape[0])
        lines, _ = self.decode(run(self.network, self._batch(crop, wide, max(self.padding, wide))))
        return lines[0][0], float(lines[0][1])

    def _batch(self, crop: Any, most: int, columns: int) -> Any:
        width = max(1, min(most, math.ceil(48 * crop.shape[1] / crop.shape[0])))
        batch = np.zeros((1, 3, 48, columns), np.float32)
        batch[0, :, :, :width] = normalised(resized(np.ascontiguousarray(crop), width, 48))
        return batch


def detect_service(threads: int, workers: int, side: int, other: int) -> FastAPI:
    app, detector, pool = FastAPI(), Detector(threads, side), ThreadPoolExecutor(workers)
    client = httpx.AsyncClient(base_url=f"http://127.0.0.1:{other}", timeout=120, trust_env=False)

    @app.post("/ocr")
    async def ocr(request: Request) -> dict[str, Any]:
        body = await request.body()
        boxes, crops = await asyncio.get_running_loop().run_in_executor(pool, detector.crops, body)
        answers = await asyncio.gather(*(client.post("/read", content=crop) for crop in crops))
        texts = [answer.json() for answer in answers]
        return {"results": [{"box": box, **text} for box, text in zip(boxes, texts, strict=True)]}

    return app


def recognise_service(threads: int, workers: int, padding: int) -> FastAPI:
    app, recogniser, pool = FastAPI(), Recogniser(threads, padding), ThreadPoolExecutor(workers)

    @app.post("/read")
    async def read(request: Request) -> dict[str, Any]:
        body = await request.body()
        text, score = await asyncio.get_running_loop().run_in_executor(pool, recogniser.read, body)
        return {"text": text, "score": score}

    return app


if __name__ == "__main__":
    kind, port, *rest = sys.argv[1:]
    numbers = [int(word) for word in rest]
    app = detect_service(*numbers) if kind == "detect" else recognise_service(*numbers)
    uvicorn.run(app, host="127.0.0.1", port=int(port), log_level="error", access_log=False)
