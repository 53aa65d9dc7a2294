"""`--schema` on the command line: answers that do not match are kept, marked, counted, and asked again when told to."""

import json

import pytest

ECHO = ("-m", "echo:echo", "--budget", 1, "--schema", "schema.json")
SCHEMA = {"type": "object", "properties": {"label": {"enum": ["yes", "no"]}}, "required": ["label"]}
SAID = ['{"label": "yes"}', '{"label": "perhaps"}', "no JSON"]


@pytest.fixture
def labels(desk):
    """A user's directory with a schema, and three lines of which echo answers the first alone in its form."""
    (desk.home / "schema.json").write_text(json.dumps(SCHEMA))
    desk.write("in.jsonl", [{"custom_id": f"p{n}", "prompt": text} for n, text in enumerate(SAID)])
    return desk


def flaws(desk, name="out.jsonl"):
    return {line["custom_id"]: line["farebox"].get("invalid", "") for line in desk.out(name)}


def test_answers_that_do_not_match_keep_reply_and_cost_are_marked_counted_and_end_with_3(labels):
    ended = labels.run("run", "in.jsonl", *ECHO, "-o", "out.jsonl", "--json")
    assert (ended.code, ended.json["succeeded"], ended.json["failed"], ended.json["invalid"]) == (3, 3, 0, 2)
    assert ended.json["by_model"]["echo:echo"]["invalid"] == 2
    assert "2 answers do not match the schema" in ended.stderr
    assert "farebox retry out.jsonl --class invalid" in ended.stderr
    found = flaws(labels)
    assert (found["p0"], found["p1"]) == ("", 'label: "perhaps" is not one of "yes" or "no"')
    assert found["p2"]
    for line in labels.out():
        assert line["farebox"]["cost_nusd"] > 0
        assert line["response"]["body"]["choices"][0]["message"]["content"]
        assert line["error"] is None
    again = labels.run("run", "in.jsonl", *ECHO, "-o", "out.jsonl", "--json")
    assert (again.code, again.json["invalid"], again.json["spent_nusd"]) == (3, 2, ended.json["spent_nusd"])


def test_retry_asks_them_again_only_when_their_class_is_named(labels):
    first = labels.run("run", "in.jsonl", *ECHO, "-o", "out.jsonl", "--json").json
    assert "nothing to retry" in labels.run("retry", "out.jsonl").stderr
    assert labels.run("retry", "out.jsonl", "--class", "invalid", "--json").json["classes"] == {"invalid": 2}
    assert list(flaws(labels)) == ["p0"]
    again = labels.run("run", "in.jsonl", *ECHO, "-o", "out.jsonl", "--json")
    assert (again.json["succeeded"], again.json["invalid"]) == (3, 2)
    assert again.json["spent_nusd"] > first["spent_nusd"]
    (batch,) = labels.run("batches", "--json").json["batches"]
    assert (batch["submitted"], batch["succeeded"]) == (3, 3), "each line counts once"
    assert labels.run("audit").code == 0


def test_a_table_has_the_reply_and_what_is_wrong_with_it(labels):
    labels.write("in.csv", ["text", '"{""label"":""no""}"', "maybe"])
    labels.run("run", "in.csv", *ECHO, "--template", "{text}", "-o", "out.csv")
    table = (labels.home / "out.csv").read_text()
    assert '"{""echo"":""maybe""}","invalid: ""label"" is a required property"' in table
    assert table.count("invalid") == 1


def test_results_of_a_fleet_are_judged_when_they_are_collected(labels):
    labels.run("budget", "set", 1)
    batch = labels.run("submit", "in.jsonl", "-m", "echo:echo", "--schema", "schema.json").stdout.strip()
    assert labels.run("worker", "--burst").code == 0
    collected = labels.run("results", batch, "-o", "out.jsonl", "--schema", "schema.json", "--json")
    assert (collected.code, collected.json["invalid"]) == (3, 2)
    assert flaws(labels)["p1"].startswith("label: ")
    assert labels.run("results", batch, "-o", "-", "--schema", "schema.json").code == 2


def test_a_file_that_is_no_schema_is_refused_before_anything_is_sent(labels):
    (labels.home / "schema.json").write_text('{"type": "object", "properties": {"a": {"type": "strin"}}}')
    refused = labels.run("run", "in.jsonl", *ECHO)
    assert refused.code == 2
    assert "--schema schema.json: it is no JSON schema: properties/a/type" in refused.stderr


def test_retry_of_a_fleets_batch_says_that_answers_stay(labels):
    assert labels.run("budget", "set", 5).code == 0
    assert labels.run("submit", "in.jsonl", "-m", "echo:echo", "--batch", "b").code == 0
    assert labels.run("worker", "--burst").code == 0
    assert "submit those lines anew" in labels.run("retry", "b", "--class", "cancelled").stderr
    assert "Answers marked `invalid` are answers, and stay" in labels.run("retry", "b", "--class", "invalid").stderr
    assert "invalid" not in labels.run("retry", "b").stderr
