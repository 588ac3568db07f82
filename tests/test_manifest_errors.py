"""Every mistake a manifest can hold: one line with file, line, column, path and what would be right."""

from pathlib import Path

import pytest
from manifest_fixture import HEAD, errors

RUN = "experiments:\n  g:\n    runs:\n      A: {architecture: mlp%s}\n"
GRID = "experiments:\n  g:\n    architecture: mlp\n    %s\n"
SEARCH = "searches:\n  s: {architecture: mlp, %s}\n"
METRICS = "one of validation_loss, validation_balanced_accuracy, validation_accuracy"
SPACE = "space: {dropout: {uniform: [0, 0.5]}}"


def names(text: str) -> str:
    return f"{text!r} is no safe name: it may hold letters, digits and . _ - + = , and starts with a letter, digit or _"


WRONG = {
    "unknown setting": (
        "experiments:\n  baseline:\n    runs:\n      MLP:\n        architecture: mlp\n        hiden_layers: [256]\n",
        "9:9: experiments.baseline.runs.MLP.hiden_layers: unknown setting; did you mean 'hidden_layers'?",
    ),
    "unknown key": ("experimets: {}\n", "4:1: experimets: unknown key; did you mean 'experiments'?"),
    "a key like none": (
        "report: {zzz: 1}\n" + RUN % "",
        "4:10: report.zzz: unknown key; must be one of language",
    ),
    "another architecture's setting": (
        RUN % ", filters_count: 3",
        "7:30: experiments.g.runs.A.filters_count: mlp has no such setting; cnn has",
    ),
    "wrong type": (
        RUN % ", epochs: three",
        "7:38: experiments.g.runs.A.epochs: must be a whole number, not 'three'",
    ),
    "no is text": (
        RUN % ", freeze_embeddings: no",
        "7:49: experiments.g.runs.A.freeze_embeddings: must be true or false, not 'no'",
    ),
    "out of range": (RUN % ", dropout: 1.5", "7:39: experiments.g.runs.A.dropout: must be at most 0.95, not 1.5"),
    "more than 64 bits": (RUN % f", seed: {2**64}", "7:36: experiments.g.runs.A.seed: a number too large to keep"),
    "not finite": (
        RUN % ", learning_rate: .nan",
        "7:45: experiments.g.runs.A.learning_rate: must be a number, not nan",
    ),
    "duplicate key": (
        "experiments:\n  g:\n    runs:\n      A: {architecture: mlp}\n      A: {architecture: cnn}\n",
        "8:7: experiments.g.runs.A: duplicate key (first in line 7)",
    ),
    "empty group": (
        "experiments:\n  g: {architecture: mlp}\n",
        "5:3: experiments.g: is an empty group: give it runs, grid or zip",
    ),
    "empty runs": (
        "experiments:\n  g: {runs: {}}\n",
        "5:7: experiments.g.runs: is empty: a group needs at least one run",
    ),
    "runs and grid": (
        GRID % "runs: {A: {}}\n    grid: {dropout: [0.1]}",
        "8:5: experiments.g.grid: can't be combined with runs: a group has one of them",
    ),
    "zip of unequal lengths": (
        GRID % "zip: {dropout: [0.1, 0.2], epochs: [1]}",
        "7:5: experiments.g.zip: lists of unequal lengths: dropout 2, epochs 1",
    ),
    "a grid's values are no list": (
        GRID % "grid: {dropout: 0.1}",
        "7:21: experiments.g.grid.dropout: must be a list, not 0.1",
    ),
    "a grid's empty list": (
        GRID % "grid: {dropout: []}",
        "7:21: experiments.g.grid.dropout: must be a non-empty list",
    ),
    "a grid's value twice": (
        GRID % "grid: {dropout: [0.1, 0.1]}",
        "7:27: experiments.g.grid.dropout.1: the value 0.1 is there twice",
    ),
    "a grid's value twice in two notations": (
        GRID % "grid: {dropout: [0, 0.0]}",
        "7:25: experiments.g.grid.dropout.1: the value 0 is there twice",
    ),
    "a zip's value twice in two notations": (
        GRID % "zip: {dropout: [0.1, 0, 0.0], epochs: [1, 2, 2]}",
        "7:5: experiments.g.zip: its runs 2 and 3 are one: dropout=0.0,epochs=2",
    ),
    "a grid's part twice in two notations": (
        GRID % "grid: {optimiser: [adam, {adam: {}}]}",
        "7:5: experiments.g.grid: its runs 1 and 2 are one: optimiser=adam",
    ),
    "a grid's unknown setting": (
        GRID % "grid: {droput: [0.1]}",
        "7:12: experiments.g.grid.droput: unknown setting; did you mean 'dropout'?",
    ),
    "seeds twice": (
        GRID % "seeds: [0, 1, 0]\n    runs: {A: {}}",
        "7:19: experiments.g.seeds.2: the seed 0 is there twice",
    ),
    "a negative seed": (
        GRID % "seeds: [-1]\n    runs: {A: {}}",
        "7:13: experiments.g.seeds.0: must be from 0 to 2147483647, not -1",
    ),
    "no seeds": (GRID % "seeds: []\n    runs: {A: {}}", "7:12: experiments.g.seeds: must be a non-empty list"),
    "seed beside seeds": (
        GRID % "seeds: [0, 1]\n    runs: {A: {seed: 3}}",
        "8:16: experiments.g.runs.A.seed: the group has seeds: give one of them",
    ),
    "a filter longer than max_length": (
        RUN.replace("mlp", "cnn") % ", filters_length: [2, 40]",
        "7:46: experiments.g.runs.A.filters_length: a filter of 40 words is longer than max_length, 32",
    ),
    "a filter longer than the run's max_length": (
        RUN.replace("mlp", "cnn") % ", max_length: 3, filters_length: [2, 4]",
        "7:61: experiments.g.runs.A.filters_length: a filter of 4 words is longer than max_length, 3",
    ),
    "a group's name with a slash": (
        "experiments:\n  a/b:\n    runs: {A: {architecture: mlp}}\n",
        f"5:3: experiments.a/b: {names('a/b')}",
    ),
    "a run's name with a leading dot": (
        "experiments:\n  g:\n    runs: {..: {architecture: mlp}}\n",
        f"6:12: experiments.g.runs...: {names('..')}",
    ),
    "a search's name with a space": (
        "searches:\n  a b: {architecture: mlp, " + SPACE + "}\n",
        f"5:3: searches.a b: {names('a b')}",
    ),
    "a long name": (
        f"experiments:\n  {'a' * 101}:\n    runs: {{A: {{architecture: mlp}}}}\n",
        f"5:3: experiments.{'a' * 101}: {'a' * 101!r} is a name of 101 characters: at most 100",
    ),
    "a reserved name": (
        (RUN % "").replace("  g:", "  data:"),
        "5:3: experiments.data: the name 'data' is taken: preprocess tasks are shown under it",
    ),
    "a search's reserved name": (
        SEARCH.replace("  s:", "  data:") % SPACE,
        "5:3: searches.data: the name 'data' is taken: preprocess tasks are shown under it",
    ),
    "a name of many bytes": (
        f"experiments:\n  {'漢' * 67}:\n    runs: {{A: {{architecture: mlp}}}}\n",
        f"5:3: experiments.{'漢' * 67}: {'漢' * 67!r} is a name of 201 bytes in UTF-8: at most 200",
    ),
    "a published figure that is no number": (
        GRID % "runs: {MLP: {}}\n    reference: {MLP: {test_loss: .nan}}",
        "8:34: experiments.g.reference.MLP.test_loss: must be a number, not nan",
    ),
    "a search's published figure that is no number": (
        SEARCH % f"reference: {{test_loss: .inf}}, {SPACE}",
        "5:49: searches.s.reference.test_loss: must be a number, not inf",
    ),
    "memory without end": (
        "resources: {train: {mem_gb: .inf}}\n" + RUN % "",
        "4:29: resources.train.mem_gb: must be a number above 0, or auto, not inf",
    ),
    "an sbatch option that is no number": (
        "cluster: {extra: {nice: .nan}}\n" + RUN % "",
        "4:25: cluster.extra.nice: must be a single value, not nan",
    ),
    "a tracking server that is none": (
        "tracking: {uri: ftp://host}\n" + RUN % "",
        "4:17: tracking.uri: must be http://host or https://host, not 'ftp://host'",
    ),
    "a tracking server without a host": (
        "tracking: {uri: 'http://'}\n" + RUN % "",
        "4:17: tracking.uri: must be http://host or https://host, not 'http://'",
    ),
    "early stopping as a number": (
        "defaults: {early_stopping: 5}\n" + RUN % "",
        "4:28: defaults.early_stopping: must be a mapping, not 5",
    ),
    "a choice of nothing": (
        SEARCH % "space: {dropout: {choice: }}",
        "5:52: searches.s.space.dropout.choice: must be a non-empty list of values, not nothing",
    ),
    "a tagged word": ("canary: !!bool maybe\n" + RUN % "", "4:9: canary: is not true or false: 'maybe'"),
    "a tagged nothing": ("umask: !!null 027\n" + RUN % "", "4:8: umask: is not null: '027'"),
    "a tagged key": ("!mine report: {}\n" + RUN % "", "4:1: the tag '!mine' is not supported"),
    "a group and a search of one name": (
        RUN % "" + SEARCH.replace("  s:", "  g:") % SPACE,
        "9:3: searches.g: a group of experiments has this name already",
    ),
    "no architecture": (
        "experiments:\n  g:\n    runs: {A: {dropout: 0.1}}\n",
        "6:12: experiments.g.runs.A: has no architecture: name one here or in the group",
    ),
    "unknown architecture": (
        RUN.replace("mlp", "mpl") % "",
        "7:25: experiments.g.runs.A.architecture: unknown architecture 'mpl'; did you mean 'mlp'?",
    ),
    "reference for no run": (
        GRID % "runs: {MLP: {}}\n    reference: {MPL: {test_loss: 1}}",
        "8:17: experiments.g.reference.MPL: there is no run of this name; did you mean 'MLP'?",
    ),
    "reference of no metric": (
        GRID % "runs: {MLP: {}}\n    reference: {MLP: {test_los: 1}}",
        "8:23: experiments.g.reference.MLP.test_los: unknown metric; did you mean 'test_loss'?",
    ),
    "a data key's wrong value in a run": (
        RUN % ", quality: bad",
        "7:39: experiments.g.runs.A.quality: must be 'all' or 'reliable', not 'bad'",
    ),
    "a data key's unknown part in a run": (
        RUN % ", vocabulary: {max_siz: 3}",
        "7:43: experiments.g.runs.A.vocabulary.max_siz: unknown key; did you mean 'max_size'?",
    ),
    "a setting that a group's other architecture lacks": (
        "experiments:\n  g:\n    epochs: 3\n    runs: {A: {architecture: mlp}, B: {architecture: linear}}\n",
        "6:5: experiments.g.epochs: linear has no such setting; cnn, encoder, mlp, rnn have",
    ),
    "runs as a list": ("experiments:\n  g:\n    runs: [A]\n", "6:11: experiments.g.runs: must be a mapping, not ['A']"),
    "unknown default": (
        "defaults: {droput: 0.1}\n" + RUN % "",
        "4:12: defaults.droput: unknown setting; did you mean 'dropout'?",
    ),
    "a data key in defaults": (
        "defaults: {quality: all}\n" + RUN % "",
        "4:12: defaults.quality: is no setting of an architecture: it belongs in data",
    ),
    "a default's wrong value": (
        "defaults: {epochs: 0}\n" + RUN % "",
        "4:20: defaults.epochs: must be at least 1, not 0",
    ),
    "unknown resource": (
        "resources: {train: {mem: 3}}\n" + RUN % "",
        "4:21: resources.train.mem: unknown key; did you mean 'mem_gb'?",
    ),
    "shards of training": (
        "resources: {train: {shards: 3}}\n" + RUN % "",
        (
            "4:21: resources.train.shards: unknown key; must be one of "
            "cpus, gpus, idle_below, idle_min, mem_gb, pack, throttle, time_min"
        ),
    ),
    "no memory": (
        "resources: {train: {mem_gb: 0}}\n" + RUN % "",
        "4:29: resources.train.mem_gb: must be a number above 0, or auto, not 0",
    ),
    "an umask that is no octal": (
        "umask: 22\n" + RUN % "",
        "4:8: umask: must be octal digits after a zero, such as 027, not 22",
    ),
    "a language of the report": (
        "report: {language: fr}\n" + RUN % "",
        "4:20: report.language: must be 'en' or 'es', not 'fr'",
    ),
    "no such profile": ("cluster: nowhere.yaml\n" + RUN % "", "4:10: cluster: no such file: nowhere.yaml"),
    "early stopping of what has no epochs": (
        RUN.replace("mlp", "linear") % ", early_stopping: {patience: 3}",
        "7:33: experiments.g.runs.A.early_stopping: linear is not trained by epochs: it can't stop early",
    ),
    "early stopping without patience": (
        RUN % ", early_stopping: {patience: 0}",
        "7:57: experiments.g.runs.A.early_stopping.patience: must be at least 1, not 0",
    ),
    "patience twice": (
        RUN % ", early_stopping: {patience: 2}, patience: 2",
        "7:61: experiments.g.runs.A.patience: early_stopping sets it too: give one",
    ),
    "nothing asked for": ("", "1:1: asks for nothing: give it experiments or searches"),
    "a tag": (
        "umask: !!python/name:os.system x\n",
        "4:8: umask: the tag 'tag:yaml.org,2002:python/name:os.system' is not supported",
    ),
    "an alias in itself": ("report: &a {language: *a}\n", "4:9: report.language: an alias that contains itself"),
    "a list as a key": ("[a]: 1\n", "4:1: a key must be text, not a list or mapping"),
    "merging a value": ("report:\n  <<: 1\n", "5:7: report.<<: must be a mapping, or a list of mappings, to merge"),
    "deep nesting": (f"report: {'[' * 100_000}\n", "4:68: is nested more than 60 levels deep"),
    "a search without a space": ("searches:\n  s: {architecture: mlp}\n", "5:3: searches.s.space: is missing"),
    "a search by a test figure": (
        SEARCH % f"metric: test_loss, {SPACE}",
        f"5:34: searches.s.metric: must be {METRICS}, not 'test_loss'",
    ),
    "no trials": (SEARCH % f"trials: 0, {SPACE}", "5:34: searches.s.trials: must be at least 1, not 0"),
    "unknown algorithm": (
        SEARCH % f"algorithm: tep, {SPACE}",
        "5:37: searches.s.algorithm: unknown algorithm 'tep'; did you mean 'tpe'?",
    ),
    "more evaluated than tried": (
        SEARCH % f"evaluate_best: 11, {SPACE}",
        "5:41: searches.s.evaluate_best: must be at most trials, 10, not 11",
    ),
    "refit seeds twice": (
        SEARCH % f"refit_seeds: [1, 1], {SPACE}",
        "5:43: searches.s.refit_seeds.1: the seed 1 is there twice",
    ),
    "fixed and searched": (
        SEARCH % f"dropout: 0.1, {SPACE}",
        "5:26: searches.s.dropout: is searched: space has it too",
    ),
    "the seed searched": (
        SEARCH % "space: {seed: {randint: [0, 3]}}",
        "5:34: searches.s.space.seed: the seed is not searched: use refit_seeds to train the winner with several",
    ),
    "a filter of the space longer than max_length": (
        SEARCH.replace("mlp", "cnn") % "space: {filters_length: {choice: [[2], [40]]}}",
        "5:34: searches.s.space.filters_length: a filter of 40 words is longer than max_length, 32",
    ),
    "a search's unknown setting": (
        SEARCH % f"batch_sise: 3, {SPACE}",
        "5:26: searches.s.batch_sise: unknown setting; did you mean 'batch_size'?",
    ),
    "stopping out of range": (
        SEARCH % f"stopping: {{asha: {{reduction: 1}}}}, {SPACE}",
        "5:55: searches.s.stopping.asha.reduction: must be at least 2, not 1",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_mistake_below_the_head_is_named_at_its_place(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    below, expected = WRONG[case]
    assert errors(tmp_path, monkeypatch, HEAD + below) == f"m.yaml:{expected}"


HEADS = {
    "an unsafe name": (HEAD.replace("lab", "../lab"), f"1:7: name: {names('../lab')}"),
    "an unknown variable": (
        HEAD.replace("a.csv", "$NOT_SET_ANYWHERE/a.csv"),
        "3:15: data.train: unknown environment variable 'NOT_SET_ANYWHERE'",
    ),
    "a lone dollar": (
        HEAD.replace("a.csv", '"a$.csv"'),
        "3:15: data.train: a '$' with no variable's name after it; write '$$' for a dollar",
    ),
    "no storage": (HEAD.replace("storage: storage\n", ""), "1:1: storage: is missing"),
    "an unknown data key": (
        HEAD.replace("c.csv", "c.csv, max_lenght: 3"),
        "3:54: data.max_lenght: unknown key; did you mean 'max_length'?",
    ),
    "a data value": (HEAD.replace("c.csv", "c.csv, max_length: 0"), "3:66: data.max_length: must be at least 1, not 0"),
    "two kinds of source": (
        HEAD.replace("c.csv", "c.csv, source: d.csv"),
        "3:1: data: give either source with split, or train, validation, test; not source and train",
    ),
    "no include": ("include: nowhere.yaml\n" + HEAD, "1:10: include: no such file: nowhere.yaml"),
    "an include of itself": ("include: m.yaml\n" + HEAD, "1:10: include: m.yaml is included by itself"),
    "an include that is no path": ("include: 3\n" + HEAD, "1:10: include: must be a path"),
    "an empty text as path": (
        HEAD.replace("storage: storage", "storage: ''"),
        "2:10: storage: must be a path, not an empty text",
    ),
    "a path of two lines": (
        HEAD.replace("storage: storage", 'storage: "a\\nb"'),
        "2:10: storage: a path must not hold line breaks or other control characters",
    ),
}


@pytest.mark.parametrize("case", HEADS)
def test_a_mistake_in_the_head_is_named_at_its_place(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    head, expected = HEADS[case]
    monkeypatch.delenv("TANDA_STORAGE", raising=False)
    assert errors(tmp_path, monkeypatch, head + RUN % "") == f"m.yaml:{expected}"
