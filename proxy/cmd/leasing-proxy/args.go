package main

import (
	"errors"

	"github.com/spf13/pflag"
)

// parseArgs reads the command line. What is no flag is not told, as it may be a password
// that has lost its flag, and whoever starts the program logs what it says.
func (s *settings) parseArgs(args []string) error {
	err := s.flags.Parse(args)
	var unknown *pflag.NotExistError
	var syntax *pflag.InvalidSyntaxError
	switch {
	case errors.As(err, &unknown) && unknown.GetSpecifiedShortnames() != "", errors.As(err, &syntax):
		return errors.New("unexpected argument with one dash, or without a name: flags begin with two dashes, --name=value")
	case err == nil && s.flags.NArg() > 0:
		return errors.New("unexpected argument, neither a flag nor the value of one: flags begin with two dashes, --name=value")
	}
	return err
}
