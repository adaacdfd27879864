"""A subject's variables. The settings are one class made of these; only that one is ever built."""

from pydantic import BaseModel, ConfigDict


class Variables(BaseModel):
    """What each subject's class is based on: to build them all takes 0.1 s of every command."""

    model_config = ConfigDict(defer_build=True)
