"""A bare FastAPI route that does nothing, on uvicorn set as the API's: `python -m benchmarks.peers.noop_api PORT`."""

import sys

from fastapi import FastAPI

from benchmarks.peers.serving import serve

PATH = "/noop"
app = FastAPI()


@app.get(PATH)
async def nothing() -> None:
    """Answer null."""


@app.post(PATH)
async def nothing_of_a_body() -> None:
    """Answer null, the body unread."""


if __name__ == "__main__":
    serve(app, int(sys.argv[1]))
