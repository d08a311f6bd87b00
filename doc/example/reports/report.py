"""Code that is copied to where it runs."""


def greeting(name):
    return "hello " + name
