"""Sequences written by tables of log-probabilities: ranked answers, curricula, step trees and adjectives, all exact."""
