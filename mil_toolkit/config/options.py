"""The options of mil-tune that give a configuration."""

from dataclasses import asdict

from mil_toolkit.config.head import HeadConfig
from mil_toolkit.config.presets import PRESETS
from mil_toolkit.config.settings import option_words, set_options
from mil_toolkit.config.study import StudyConfig


def study_options(config: StudyConfig) -> list[str]:
    """Return the options of mil-tune that give `config`: those that differ from the defaults.

    >>> study_options(StudyConfig(trials=10, settings={"hidden": (32, 64)}))
    ['--trials', '10', '--set', 'hidden=32,64']
    """
    defaults, settings = asdict(StudyConfig()), dict(config.settings)
    preset = next(
        (name for name, fixed in PRESETS.items() if fixed and fixed.items() <= settings.items()), None
    )
    options = {
        name: value
        for name, value in asdict(config).items()
        if name != "settings" and value != defaults[name]
    }
    if preset:
        options["preset"] = preset
    if preset == "founding":  # it has an objective of its own
        options["objective"] = config.objective
    implied = {**(PRESETS[preset] if preset else {}), "epochs": (HeadConfig().epochs,)}
    changed = {
        name: values
        for name, values in settings.items()
        if implied.get(name) != values and name != "features"  # named by options of their own
    }
    return [*option_words(options), *set_options(changed)]
