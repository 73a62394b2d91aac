"""What a script names of openai and never calls."""


class openai_object:  # noqa: N801
    """The module of that name."""

    OpenAIObject = dict
