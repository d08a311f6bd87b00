"""What hangs: the stacks of workers, the report for a person, and when it is printed unasked."""
