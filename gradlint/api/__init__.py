"""What Python code asks of gradlint: check a target, record a run, explain a parameter, cost a step, draw the graph."""
