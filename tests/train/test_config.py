"""Configurations: what is merged, what is refused and in which words."""

from __future__ import annotations

import tomllib

import pytest

from gridnn.errors import InputError
from gridnn.train.config import dump_toml, load_config
from gridnn.train.sections import DEFAULT_EPOCHS, Config


def _file(tmp_path, text):
    path = tmp_path / "job.toml"
    path.write_text(text)
    return path


def _refused(*overrides, path=None):
    with pytest.raises(InputError) as caught:
        load_config(path, overrides)
    return str(caught.value)


def test_the_default_job():
    config = load_config()
    assert (config.model.name, config.data.source, config.plan.spec) == ("digits-cnn", "digits", "auto")
    assert (config.train.batch, config.train.epochs, config.train.steps) == (64, DEFAULT_EPOCHS, None)
    assert (config.train.seed, config.train.dtype, config.train.optimizer) == (0, "float32", "sgd")
    assert config == Config()


def test_later_sources_win(tmp_path):
    path = _file(tmp_path, "[train]\nbatch = 32\nlr = 1\n[plan]\nspec = 'n4'\n[run]\ndir = 'a'")
    config = load_config(path, ["train.batch=8", "train.batch=16", "plan.spec=k2"], "n2 k2", "b")
    assert (config.train.batch, config.train.lr, config.plan.spec, config.run.dir) == (16, 1.0, "n2 k2", "b")
    assert isinstance(config.train.lr, float)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("data.path=/some/where", "/some/where"),
        ('data.path="quoted = yes"', "quoted = yes"),
        ("data.path=a=b", "a=b"),
        (" data.path = spaced ", "spaced"),
    ],
)
def test_values_that_are_no_toml_are_text(text, value):
    assert load_config(None, [text]).data.path == value


def test_values_are_toml():
    config = load_config(
        None,
        [
            "train.lr=1e-3",
            "data.flip=true",
            "data.std=[0.5, 2]",
            "data.mean=1",
            "model.options.widths=[8, 16]",
        ],
    )
    assert (config.train.lr, config.data.flip) == (1e-3, True)
    assert (config.data.std, config.data.mean) == ((0.5, 2.0), (1.0,))
    assert config.model.options == {"widths": [8, 16]}


def test_the_learning_rate_follows_the_optimizer():
    assert load_config(None, ["train.optimizer=adam"]).train.lr == 1e-3
    assert load_config(None, ["train.optimizer=adam", "train.lr=0.5"]).train.lr == 0.5


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["train.steps=7", "train.optimizer=lars", "train.schedule=step", "train.milestones=[1, 2.5]"],
        ["data.path=/x/photos", "data.tile=[64, 48]", "data.mean=[0.1, 0.2, 0.3]", "train.clip_norm=1e-5"],
        ["data.name=synthetic", "data.input_shape=[3, 5, 7]", "model.options.name='quote\" \\\\ '"],
        [
            "model.options.deep=[1, 2]",
            "model.options.rate=0.30000000000000004",
            "train.seed=9007199254740993",
        ],
    ],
)
def test_a_dump_loads_as_the_same_configuration(tmp_path, overrides):
    config = load_config(None, overrides)
    path = _file(tmp_path, dump_toml(config))
    assert load_config(path) == config
    assert dump_toml(load_config(path)) == dump_toml(config)


def test_every_key_has_a_meaning():
    missing = [
        f"{section}.{key}"
        for section in Config.model_fields
        for key, inner in type(getattr(Config(), section)).model_fields.items()
        if not inner.description
    ]
    assert missing == []


def test_a_new_length_replaces_the_files(tmp_path):
    path = _file(tmp_path, "[train]\nepochs = 30")
    train = load_config(path, ["train.steps=5"]).train
    assert (train.epochs, train.steps) == (None, 5)


def test_a_missing_file(tmp_path):
    assert "no configuration file" in _refused(path=tmp_path / "absent.toml")
    assert "cannot be read" in _refused(path=tmp_path)


def test_bad_toml_tells_the_line(tmp_path):
    message = _refused(path=_file(tmp_path, "[train]\nbatch = 3\nlr 0.1\n"))
    assert "job.toml is not valid TOML" in message
    assert "line 3" in message


def test_a_file_that_is_not_text(tmp_path):
    path = tmp_path / "job.toml"
    path.write_bytes(b"\xff\xfe\x00")
    assert "not UTF-8" in _refused(path=path)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("train.bacth=3", "train.bacth: unknown key; did you mean train.batch?"),
        ("batch=3", "batch: unknown key; did you mean train.batch?"),
        ("data.lr=3", "data.lr: unknown key; did you mean train.lr?"),
        ("trian.batch=3", "trian: unknown key; did you mean train?"),
        ("data.pth=x", "data.pth: unknown key; did you mean data.path?"),
        ("train.qqqqqq=3", "train.qqqqqq: unknown key; --print-config shows all keys"),
    ],
)
def test_unknown_keys(override, said):
    assert said in _refused(override)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("train.batch=many", "train.batch: needs a whole number; got text 'many'"),
        ("train.batch=64.0", "train.batch: needs a whole number; got a number 64.0"),
        ("train.batch=true", "train.batch: needs a whole number; got true"),
        ("train.batch=0", "train.batch: needs a number of at least 1; got a whole number 0"),
        ("train.lr=fast", "train.lr: needs a number; got text 'fast'"),
        ("train.lr=true", "train.lr: needs a number; got true"),
        ("train.lr=nan", "train.lr: needs a"),
        ("train.lr=0", "train.lr: needs a number above 0.0; got a whole number 0"),
        ("train.momentum=1", "train.momentum: needs a number below 1.0"),
        ("train.eval=yes", "train.eval: needs true or false; got text 'yes'"),
        ("train.dtype=float16", "train.dtype: needs one of 'float32' or 'float64'; got text 'float16'"),
        ("train=3", "train: needs a table of keys; got a whole number 3"),
        ("run.dir=2024", "run.dir: needs text in quotes; got a whole number 2024"),
        ("model.name=''", "model.name: needs text that is not empty"),
        ("data.mean=grey", "data.mean: needs a list; got text 'grey'"),
        ("data.std=[1, -1]", "data.std[1]: needs a number above 0.0; got a whole number -1"),
        ("data.tile=[1]", "data.tile[1]: is missing"),
        ("data.tile=[1, 2, 3]", "data.tile: needs a list of 2 at most"),
        ("model.options.a=[[1]]", "model.options.a: needs a number, text, true or false"),
        ("model.options=3", "model.options: needs a table; got a whole number 3"),
        ("train.batch", "--set train.batch: needs section.key=value"),
        ("train.batch=", "--set train.batch=: needs section.key=value"),
        ("train..batch=3", "--set train..batch=3: needs section.key=value"),
        ("train.batch.size=3", "train.batch: needs a whole number; got a table"),
    ],
)
def test_values_that_do_not_fit(override, said):
    assert said in _refused(override)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["train.epochs=2", "train.steps=3"], "train.epochs and train.steps are both given"),
        (["train.nesterov=true", "train.momentum=0"], "train.nesterov needs"),
        (["train.nesterov=true", "train.optimizer=adam"], "train.nesterov needs"),
        (["train.schedule=step"], "needs train.milestones"),
        (["train.milestones=[3]"], 'train.schedule is "constant"'),
        (["train.schedule=step", "train.milestones=[3, 3]"], "must rise; got [3.0, 3.0]"),
        (["train.batch=10", "train.accumulate=11"], "cannot be split into train.accumulate = 11"),
        (
            ["train.late=predict", "train.cut_optimizer=true"],
            'take train.late = "spike", or leave the state whole',
        ),
        (["data.name=digits", "data.path=/x"], "leave one out"),
        (["data.name=synthetic"], "needs data.input_shape"),
        (["data.input_shape=[3, 4]"], 'only for data.name = "synthetic"'),
        (["data.target=image", "train.label_smoothing=0.1"], "train.label_smoothing is for classes"),
    ],
)
def test_keys_that_contradict_each_other(overrides, said):
    assert said in _refused(*overrides)


def test_all_problems_are_told_at_once(tmp_path):
    path = _file(tmp_path, "[train]\nbatch = 'x'\nepochs = 1\n[modle]\n[run]\nlog_every_s = -1")
    message = _refused("oops", "comm.overlap=3", path=path)
    first, *lines = message.split("\n")
    assert first.endswith("job.toml has 5 problems:")
    assert len(lines) == 5
    for key in ("--set oops", "train.batch", "modle", "run.log_every_s", "comm.overlap"):
        assert sum(line.startswith(f"  {key}:") for line in lines) == 1


def test_both_contradictions_of_a_section_are_told():
    lines = _refused("train.epochs=2", "train.steps=3", "train.schedule=step").split("\n")
    assert len(lines) == 3


def test_what_data_are_asked_for():
    data = load_config(None, ["data.path=/x/mnist/", "data.pad=2", "data.classes=7"]).data
    assert (data.name, data.source) == ("mnist", "/x/mnist/")
    assert (data.options.classes, data.options.target, data.augment.pad) == (7, None, 2)
    made = load_config(None, ["data.name=synthetic", "data.input_shape=[3, 8, 9]", "data.classes=4"]).data
    assert made.source == "synthetic:3x8x9:4"


def test_the_dump_is_toml_without_open_keys():
    table = tomllib.loads(dump_toml(load_config()))
    assert "path" not in table["data"]
    assert table["train"]["epochs"] == DEFAULT_EPOCHS
