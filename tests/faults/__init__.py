"""Faults, injected on purpose: killed and frozen workers, crashed servers, broken networks. Every test is audited."""
