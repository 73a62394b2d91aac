"""What a script names of openai and never calls."""


class openai_object:
    """The module of that name."""

    OpenAIObject = dict
