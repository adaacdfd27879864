import re

from configuration.sources import variable_names
from dev.configuration import ROOT, configuration_table, env_example
from settings import Settings


def test_configuration_table_and_env_example_are_what_settings_say():
    assert (ROOT / 'docs' / 'configuration.md').read_text() == configuration_table(), (
        'run python -m dev.configuration'
    )
    assert (ROOT / '.env.example').read_text() == env_example(), 'run python -m dev.configuration'


def test_every_setting_is_described():
    undescribed = [name for name, field in Settings.model_fields.items() if not field.description]
    assert undescribed == []


def test_env_example_with_every_line_uncommented_is_a_valid_configuration(monkeypatch, tmp_path):
    example = re.sub(r'^#([A-Z_]+=)', r'\1', env_example(), flags=re.MULTILINE)
    (tmp_path / '.env').write_text(example)
    for field_name, field in Settings.model_fields.items():
        for name in variable_names(field_name, field):
            monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    assert Settings().model_dump() == {
        name: field.default for name, field in Settings.model_fields.items()
    }
