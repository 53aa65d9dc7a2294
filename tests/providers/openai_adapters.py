"""OpenAI's adapter as its tests need it, whichever of its APIs they speak: to the script, to nobody, to the vendor."""

import pytest
from tests.providers.adapter_contract import KEY

from farebox_worker.providers.openai import OpenAIProvider


@pytest.fixture
async def adapter(script):
    made = OpenAIProvider("p", api_key=KEY, base_url=f"{script.url}/v1")
    yield made
    await made.aclose()


@pytest.fixture
async def unreachable():
    made = OpenAIProvider("p", api_key=KEY, base_url="http://127.0.0.1:1/v1")
    yield made
    await made.aclose()


@pytest.fixture
async def vendor():
    made = OpenAIProvider("openai", api_key=KEY)
    yield made
    await made.aclose()
