"""Promises about the tree itself: what a clone carries, and what its pages say of it."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
NOT_OURS = {".git", ".hypothesis", ".venv", ".venvs", ".farebox", "__pycache__", "build", "dist"}

# Written so that this file does not hold what it looks for.
REGISTRY_HOST = re.compile(
    r"""
    \b(?:[\w-]+\.)*(?:py[p]i|python[h]osted|npm[j]s|yarn[p]kg|ruby[g]ems|cra[t]es|ana[c]onda|j[f]rog)\.(?:org|com|io|cn|net)\b
    | \b(?:gh[c]r|qu[a]y|doc[k]er)\.io\b
    | //(?:[\w-]+[.-])*(?:registry|mirrors?|artifactory|nexus)[.:/]
    | --(?:extra-)?index[-]url | --find[-]links | --trusted[-]host
    """,
    re.VERBOSE | re.IGNORECASE,
)
MACHINE_PATH = re.compile(r"(?<![\w.)}-])/(?:work|root|Users|home)(?:/[\w.-]+|(?=[\s`'\",:;]|$))")
SECRET = re.compile(r"\b(?:sk|pk|key|ghp|xox[bp])[-_][A-Za-z0-9_-]{12,}")


def carried() -> list[Path]:
    """Every file a clone has or is about to have; without git, every file that is not made by tools."""
    git = shutil.which("git")
    if git and (ROOT / ".git").exists():
        listed = subprocess.run(
            [git, "-c", "safe.directory=*", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        paths = [ROOT / name for name in listed.split("\0") if name]
    else:
        paths = [
            path
            for path in ROOT.rglob("*")
            if not any(part in NOT_OURS or "cache" in part for part in path.relative_to(ROOT).parts)
        ]
    return sorted(path for path in paths if path.is_file())


def lines_that_match(pattern: re.Pattern[str]) -> list[str]:
    return [
        f"{path.relative_to(ROOT)}:{number}: {found.group()}"
        for path in carried()
        for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1)
        if (found := pattern.search(line))
    ]


def page(name: str) -> str:
    path = ROOT / name
    if not path.exists():
        pytest.skip(f"{name} is not written yet")
    return path.read_text(encoding="utf-8")


def named_paths(text: str) -> list[str]:
    """The paths a page names: in backticks, with a slash inside or the ending of a file."""
    spans = re.findall(r"(?<!`)`([^`\s]+)`(?!`)", text)
    ours = re.compile(r"\.?\w[\w.-]*(?:/[\w.-]+)*/?")
    return [
        span
        for span in spans
        if ours.fullmatch(span) and ("/" in span or span.endswith((".py", ".md", ".lua", ".toml", ".yml", ".txt")))
    ]


def constraints() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))


def example_lines() -> list[dict]:
    return [json.loads(line) for line in (ROOT / "examples/prompts.jsonl").read_text(encoding="utf-8").splitlines()]


def body_of(line: dict) -> dict:
    return line.get("body", line)


def test_no_file_names_a_registry_host():
    assert lines_that_match(REGISTRY_HOST) == []


def test_no_file_names_a_path_of_somebody_s_machine():
    assert lines_that_match(MACHINE_PATH) == []


@pytest.mark.parametrize(
    "text",
    ["https://py" + "pi.org/simple", "files.python" + "hosted.org", "//registry" + ".example/x"],
)
def test_the_look_for_registry_hosts_finds_them(text):
    assert REGISTRY_HOST.search(text)


@pytest.mark.parametrize("text", ["cd /" + "work/main", "`/" + "root`", "/" + "home/somebody/x", "('/" + "Users/me')"])
def test_the_look_for_machine_paths_finds_them(text):
    assert MACHINE_PATH.search(text)


@pytest.mark.parametrize(
    "text", ["producer and/or worker", "tests/" + "work/x", "/v1/models", "./" + "root/a", "/workers"]
)
def test_the_look_for_machine_paths_leaves_others_alone(text):
    assert not MACHINE_PATH.search(text)


PAGES = ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "examples/README.md"]
PAGES += sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md"))


@pytest.mark.parametrize("name", PAGES)
def test_every_path_a_page_names_exists(name):
    # A page may leave out the package's own folder, as imports do; what a user writes is not in the tree.
    roots = [ROOT, ROOT / "producer/farebox", ROOT / "worker/farebox_worker", ROOT / "examples", (ROOT / name).parent]
    of_the_user = {"farebox.toml", ".farebox/", ".farebox/redis.sock", "p50/p95"}
    missing = [
        path
        for path in named_paths(page(name))
        if path not in of_the_user and not any((root / path).exists() for root in roots)
    ]
    assert missing == []


def test_readme_is_short_enough_to_be_read():
    assert len(page("README.md").splitlines()) <= 150


@pytest.mark.parametrize("name", ["LICENSE", "CHANGELOG.md", "CONTRIBUTING.md", "Dockerfile", ".dockerignore"])
def test_a_clone_has(name):
    assert (ROOT / name).stat().st_size > 0


def test_ci_can_be_run_and_calls_the_test_command_of_the_readme():
    assert os.access(ROOT / ".ci/run", os.X_OK)
    assert re.search(r"^\s*make test\b", (ROOT / ".ci/run").read_text(), re.MULTILINE)


def test_make_without_a_verb_explains_every_verb_people_use():
    make = shutil.which("make")
    if make is None:
        pytest.skip("there is no make here")
    shown = subprocess.run([make, "-C", str(ROOT)], capture_output=True, text=True, check=True).stdout
    for verb in ("demo", "test", "lint", "types", "format", "bench", "constraints", "clean"):
        assert re.search(rf"^\s+make {verb}\s+\S", shown, re.MULTILINE), verb


def test_constraints_are_exact_versions_without_addresses():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    assert "make constraints" in lines[0]
    assert [line for line in lines[1:] if not re.fullmatch(r"[\w.-]+==[\w.]+", line)] == []


def test_constraints_hold_the_arq_we_override_and_the_redis_it_needs():
    pinned = constraints()
    assert pinned["arq"] == "0.28.0"
    assert int(pinned["redis"].split(".")[0]) < 6
    assert "farebox" not in pinned


def test_the_example_has_200_lines_and_no_custom_id_twice():
    lines = example_lines()
    ids = [line["custom_id"] for line in lines if "custom_id" in line]
    assert len(lines) == 200
    assert len(set(ids)) == len(ids) < 200


def test_the_example_s_lines_are_chat_completions_in_either_form():
    for line in example_lines():
        body = body_of(line)
        assert ("prompt" in body) != ("messages" in body)
        assert all(message["role"] for message in body.get("messages", []))
        if "body" in line:
            assert (line["method"], line["url"]) == ("POST", "/v1/chat/completions")


def test_the_example_shows_what_batch_work_is_made_of():
    bodies = [body_of(line) for line in example_lines()]
    roles = [[message["role"] for message in body.get("messages", [])] for body in bodies]
    assert sum("system" in r for r in roles) >= 40
    assert sum("assistant" in r for r in roles) >= 10
    assert sum("tools" in body for body in bodies) >= 5
    assert {body["response_format"]["type"] for body in bodies if "response_format" in body} == {
        "json_object",
        "json_schema",
    }
    assert any("body" in line for line in example_lines())
    sizes = sorted(len(json.dumps(body, ensure_ascii=False).encode()) for body in bodies)
    assert sizes[0] < 100
    assert sizes[-5] > 2000


@pytest.mark.parametrize(
    "script",
    ["[\u4e00-\u9fff]", "[\u3040-\u30ff]", "[\u0600-\u06ff]", "[\u0900-\u097f]", "[\uac00-\ud7af]", "[\u0400-\u04ff]"],
    ids=["Chinese", "Japanese", "Arabic", "Hindi", "Korean", "Cyrillic"],
)
def test_the_example_speaks(script):
    text = (ROOT / "examples/prompts.jsonl").read_text(encoding="utf-8")
    assert len(re.findall(script, text)) >= 20


def test_compose_holds_no_secret():
    text = (ROOT / "docker-compose.yml").read_text()
    assert not SECRET.search(text)
    assert not re.search(r"redis://[^\s/]*@", text)
    # A key's variable is named and nothing more: its value is the caller's environment.
    keys = [line.strip() for line in text.splitlines() if re.search(r"KEY|TOKEN|PASSWORD|SECRET", line)]
    assert keys == ["OPENAI_API_KEY:", "ANTHROPIC_API_KEY:"]


def test_compose_lets_running_calls_finish_and_workers_be_many():
    text = (ROOT / "docker-compose.yml").read_text()
    grace = max(int(seconds) for seconds in re.findall(r"stop_grace_period: (\d+)s", text))
    assert grace > 600
    assert "container_name" not in text
    assert "noeviction" in text
    assert "everysec" in text


def test_the_image_runs_without_root_and_trusts_what_the_system_trusts():
    text = (ROOT / "Dockerfile").read_text()
    assert re.search(r"^USER (?!root)\w+", text, re.MULTILINE)
    assert "ca-certificates" in text
    assert 'ENTRYPOINT ["farebox"]' in text
