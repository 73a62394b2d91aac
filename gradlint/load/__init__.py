"""Import a target, call its build(), and normalize what it returns into a training setup."""
