// Package ballast keeps the garbage collector from running all the time.
package ballast

import "strings"

// Size is how much is held.
const Size = 64 << 20

// Hold returns memory that counts as in use while it is kept alive. A server of small
// requests has a few MB in use, and leaves some KB of garbage behind with each: the
// collector runs when there is as much garbage as memory in use, and with this, which
// is never touched and so takes no memory of the machine, that is after Size or more.
//
// It returns nil if the environment says how much garbage there may be (GOGC, GOMEMLIMIT).
func Hold(environ []string) []byte {
	for _, e := range environ {
		if name, value, _ := strings.Cut(e, "="); value != "" && (name == "GOGC" || name == "GOMEMLIMIT") {
			return nil
		}
	}
	return make([]byte, Size)
}
