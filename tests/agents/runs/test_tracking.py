"""What is logged is read back: from the CSV, and from the event files as TensorBoard reads them."""

from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tokenwalk.agents.runs.tracking import Tracker, read_metrics

LINES = {"optimum": {"eval/return": 2.5}, "reference": {"eval/return": 0.25}}


def scalars(path: Path, tag: str) -> list[tuple[int, float]]:
    events = EventAccumulator(str(path))
    events.Reload()
    if tag in events.Tags()["scalars"]:
        return [(event.step, event.value) for event in events.Scalars(tag)]
    return [(event.step, float(event.tensor_proto.float_val[0])) for event in events.Tensors(tag)]


def test_the_csv_and_the_events_hold_the_same_values(tmp_path: Path) -> None:
    with Tracker(tmp_path) as tracker:
        tracker.log(10, {"eval/return": 0.5, "train/epsilon": 0.25})
        tracker.log(20, {"eval/return": 1.5})
    rows = read_metrics(tmp_path)
    assert [(step, tag, value) for step, _, tag, value in rows] == [
        (10, "eval/return", 0.5),
        (10, "train/epsilon", 0.25),
        (20, "eval/return", 1.5),
    ]
    assert scalars(tmp_path, "eval/return") == [(10, 0.5), (20, 1.5)]
    assert scalars(tmp_path, "train/epsilon") == [(10, 0.25)]


def test_each_line_is_a_separate_run_from_the_first_step_to_the_last_under_the_curves_tag(
    tmp_path: Path,
) -> None:
    with Tracker(tmp_path, LINES) as tracker:
        for step in (5, 50, 500):
            tracker.log(step, {"eval/return": step / 500})
    assert scalars(tmp_path / "optimum", "eval/return") == [(5, 2.5), (500, 2.5)]
    assert scalars(tmp_path / "reference", "eval/return") == [(5, 0.25), (500, 0.25)]


def test_a_tracker_opened_again_appends(tmp_path: Path) -> None:
    for step in (1, 2):
        with Tracker(tmp_path) as tracker:
            tracker.log(step, {"eval/return": float(step)})
    assert [row[0] for row in read_metrics(tmp_path)] == [1, 2]
    assert scalars(tmp_path, "eval/return") == [(1, 1.0), (2, 2.0)]


def test_an_error_while_training_loses_no_metric_and_a_torn_line_is_left_out(tmp_path: Path) -> None:
    try:
        with Tracker(tmp_path) as tracker:
            tracker.log(1, {"eval/return": 1.0})
            raise KeyboardInterrupt
    except KeyboardInterrupt:
        pass
    with (tmp_path / "metrics.csv").open("a") as file:
        file.write("2,0.1,eval/ret")
    assert [row[2:] for row in read_metrics(tmp_path)] == [("eval/return", 1.0)]


def test_hyper_parameters_are_readable_by_the_hparams_tab(tmp_path: Path) -> None:
    from tensorboard.plugins.hparams import metadata, plugin_data_pb2

    with Tracker(tmp_path) as tracker:
        tracker.log_hparams({"step_size": 0.1, "backup": "sarsa", "clip": None})
        tracker.log(1, {"eval/normalized_score": 1.0})
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    content = events.summary_metadata[metadata.SESSION_START_INFO_TAG].plugin_data.content
    hparams = plugin_data_pb2.HParamsPluginData.FromString(content).session_start_info.hparams
    assert hparams["step_size"].number_value == 0.1
    assert hparams["backup"].string_value == "sarsa"
    assert hparams["clip"].string_value == "None"
