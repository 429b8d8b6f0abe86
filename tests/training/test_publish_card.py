"""What a card leads its reader to is there, by the name of the repository, and what is asked for is possible."""

import shutil

import pytest

from training.publish import main, prepare

GOOD_LINKS = """
[a](README.md#results) [b](./figures/history.png) ![c](figures/history.png "title") [d](#top) [e](HTTPS://x.org/y)
[f](<figures/my history.png>) [g](figures/my%20history.png) [h](mailto:a@b.org) [i](figures/history.png?raw=true)
`x[j](lost.png)` and ``x[k](`lost.png`)`` <img alt="l" src="figures/history.png"> [m][ref]

[ref]: figures/history.png "title"

```python
x = d["n"](lost.png)
```

~~~
[o](lost.png)
~~~
"""
BAD_LINKS = {
    '[a](figures/lost.png "title")': "figures/lost.png",
    "![a]( figures/lost.png )": "figures/lost.png",
    "[a](<figures/lost it.png>)": "figures/lost it.png",
    "[a](figures/lost_(1).png)": "figures/lost_(1).png",
    "[a](lost.md#results)": "lost.md#results",
    "[a][ref]\n\n[ref]: figures/lost.png": "figures/lost.png",
    '<img alt="x" src="figures/lost.png">': "figures/lost.png",
    "<IMG SRC='figures/lost.png'>": "figures/lost.png",
    "<a href=lost.md>x</a>": "lost.md",
    "[`a`](figures/lost.png) and `code`": "figures/lost.png",
    "an open ` \n\n[a](figures/lost.png) `": "figures/lost.png",
}


def test_links_that_lead_somewhere_and_code_are_no_findings(checkpoint, findings):
    shutil.copyfile(checkpoint / "figures" / "history.png", checkpoint / "figures" / "my history.png")
    with (checkpoint / "README.md").open("a") as file:
        file.write(GOOD_LINKS)
    assert findings(checkpoint) == []


@pytest.mark.parametrize(("text", "target"), BAD_LINKS.items())
def test_a_link_that_leads_nowhere_is_found(checkpoint, text, target, findings):
    with (checkpoint / "README.md").open("a") as file:
        file.write(f"\n{text}\n")
    (found,) = findings(checkpoint)
    assert f"what README.md links to must be uploaded with it, found no ['{target}']" in found


NOT_ADDRESSED = {
    "line ends": (lambda text: text.replace("\n", "\r\n"), "found model-index of 'model_cards/alrnn-rossler' and an"),
    "quoted name": (
        lambda text: text.replace("- name: model_cards/alrnn-rossler", '- name: "model_cards/alrnn-rossler"'),
        "found an example that loads 'model_cards/alrnn-rossler'",
    ),
    "other quotes": (
        lambda text: text.replace('("model_cards/alrnn-rossler")', "('model_cards/alrnn-rossler')"),
        "found an example that loads 'model_cards/alrnn-rossler'",
    ),
    "more arguments": (
        lambda text: text.replace('("model_cards/alrnn-rossler")', '("model_cards/alrnn-rossler", dtype="auto")'),
        "found an example that loads 'model_cards/alrnn-rossler'",
    ),
}


@pytest.mark.parametrize(("change", "message"), NOT_ADDRESSED.values(), ids=NOT_ADDRESSED)
def test_a_card_that_still_names_its_folder_is_found(checkpoint, change, message, findings):
    file = checkpoint / "README.md"
    text = change(file.read_text())
    assert text != file.read_text()
    file.write_bytes(text.encode())
    assert findings(checkpoint) == []
    (found,) = findings(checkpoint, repo="acme/toy")
    assert found.startswith("the card must name 'acme/toy' in the place of its folder, " + message)


def test_a_card_with_the_name_of_its_repository_may_go_to_another(checkpoint, findings):
    bundle, _ = prepare(checkpoint, repo="acme/toy")
    (checkpoint / "README.md").write_text(bundle.text("README.md"))
    assert findings(checkpoint, repo="acme/toy") == []
    bundle, found = prepare(checkpoint, repo="bob/toy")
    assert found == []
    assert "acme/toy" not in bundle.text("README.md")


@pytest.mark.parametrize("repo", ["a/b/c", "", "https://huggingface.co/a/b", 'a/b"\n', "a/" + "x" * 100])
def test_a_name_of_no_repository_is_refused(checkpoint, repo):
    with pytest.raises(SystemExit) as stopped:
        main([str(checkpoint), "--repo", repo, "--dry-run"])
    assert str(stopped.value) == f"error: --repo must name a repository like 'name/model', found {repo!r}; correct it."


@pytest.mark.parametrize("size", ["inf", "nan", "-1", "0"])
def test_a_size_that_is_none_is_refused(checkpoint, size):
    with pytest.raises(SystemExit, match=r"error: --max-mb must be a number above 0, found (inf|nan|-1\.0|0\.0);"):
        main([str(checkpoint), f"--max-mb={size}", "--dry-run"])


def test_a_manifest_of_too_many_levels_is_refused(tmp_path):
    (tmp_path / "manifest.json").write_text("[" * 100_000)
    with pytest.raises(SystemExit, match="error: files to publish must be nested a few levels deep"):
        main([str(tmp_path), "--dry-run"])


def test_what_lies_below_figures_is_listed_as_not_uploaded(checkpoint):
    (checkpoint / "figures" / "sub").mkdir()
    shutil.copyfile(checkpoint / "figures" / "history.png", checkpoint / "figures" / "sub" / "x.png")
    bundle, found = prepare(checkpoint)
    assert found == []
    assert bundle.left == ("figures/sub/",)
